"""A machine that reads a pickle as data: it builds containers, numbers and strings, and nothing is ever looked up."""

import pickle
from collections.abc import Callable
from pickletools import opcodes
from typing import Any, BinaryIO, ClassVar, final

from metafunc.data.formats.pickle_names import (
    AsksForMoreError,
    Name,
    Names,
    Pending,
    plain,
    plain_key,
)
from metafunc.data.formats.pickle_stream import BrokenPickleError, PickleStream

OPERATIONS = 1 << 25
"""So many operations at most, which bounds what a file of small objects takes in memory; the largest file of a known
data set, tieredImageNet's training images, has some 12 million."""
TITLES = {opcode.code.encode("latin1"): opcode.name for opcode in opcodes}
"""Of all operations, those that no data needs too."""


def _unknown(code: bytes) -> Exception:
    if code not in TITLES:
        return BrokenPickleError(f"the byte {code[0]} where an operation should be")
    return AsksForMoreError(f"the operation {TITLES[code]}")


@final
class Machine:
    """Reads one pickle.

    Args:
        file: at its beginning.
        size: its length in bytes.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = PickleStream(file, size)
        self._names = Names(size)
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        """The stacks under each open mark."""
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """What the pickle holds.

        Raises:
            AsksForMoreError: it has an operation, a name or a call that no data needs.
            BrokenPickleError: a length, a shape or the end is not right; or whatever the operation that is spoilt
                raises.
        """
        take, operations = self._file.take, self._operations
        for _ in range(OPERATIONS):
            code = take(1)
            operation = operations.get(code)
            if operation is not None:
                operation(self)
            elif code == b".":
                return plain(self._stack.pop())
            else:
                raise _unknown(code)
        raise AsksForMoreError(f"more than {OPERATIONS} operations")

    # The stack

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def _protocol(self) -> None:
        version = self._file.number("<B")
        if version > pickle.HIGHEST_PROTOCOL:
            raise BrokenPickleError(f"protocol {version}")

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _marked(self) -> list[Any]:
        """What was pushed since the last mark."""
        items = self._stack
        self._stack = self._below.pop()
        return items

    # Containers

    def _tuple(self, items: list[Any]) -> None:
        if any(type(item) is Pending for item in items):
            raise AsksForMoreError("an array in a tuple before it is complete")
        self.push(tuple(items))

    def _last(self, count: int) -> list[Any]:
        return [self._stack.pop() for _ in range(count)][::-1]

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise BrokenPickleError(f"a list's items for a {type(target).__name__}")
        target.extend(map(plain, items))

    def _put_in(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict:
            raise BrokenPickleError(f"a dict's items for a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[plain_key(key)] = plain(value)

    def _with(self, empty: Any, fill: Callable[[list[Any]], None]) -> None:
        """A new container of what was pushed since the last mark."""
        items = self._marked()
        self.push(empty)
        fill(items)

    # The memo

    def _keep(self, key: int) -> None:
        value = self._stack[-1]
        if type(value) is Pending:
            value.keys.append(key)
        self._memo[key] = value

    def _again(self, key: int) -> None:
        value = self._memo[key]
        if type(value) is Pending:
            raise AsksForMoreError("an array before it is complete")
        self.push(value)

    # Names and calls

    def _name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise BrokenPickleError("a name that is no text")
        self.push(self._names.named(module, name))

    def _call(self) -> None:
        name, arguments = self._last(2)
        if type(name) is not Name or type(arguments) is not tuple:
            raise BrokenPickleError("a call of what is no name")
        self.push(self._names.call(name, arguments))

    def _build(self) -> None:
        pending, state = self._last(2)
        if type(pending) is not Pending:
            raise AsksForMoreError(f"a state for a {type(pending).__name__}")
        value = pending.finish(state)
        for key in pending.keys:
            if self._memo[key] is pending:
                self._memo[key] = value
        self.push(value)

    _operations: ClassVar[dict[bytes, Callable[["Machine"], None]]] = {
        # Protocol 0, as text
        b"(": lambda self: self._mark(),
        b"N": lambda self: self.push(None),
        b"I": lambda self: self.push(self._file.integer()),
        b"L": lambda self: self.push(int(self._file.digits().removesuffix(b"L"))),
        b"F": lambda self: self.push(float(self._file.digits())),
        b"S": lambda self: self.push(self._file.quoted()),
        b"V": lambda self: self.push(self._file.escaped()),
        b"t": lambda self: self._tuple(self._marked()),
        b"l": lambda self: self._with([], self._append),
        b"d": lambda self: self._with({}, self._put_in),
        b"a": lambda self: self._append(self._last(1)),
        b"s": lambda self: self._put_in(self._last(2)),
        b"p": lambda self: self._keep(int(self._file.digits())),
        b"g": lambda self: self._again(int(self._file.digits())),
        b"c": lambda self: self._name(self._file.line().decode(), self._file.line().decode()),
        b"R": lambda self: self._call(),
        b"b": lambda self: self._build(),
        # Protocol 1, in bytes
        b"J": lambda self: self.push(self._file.number("<i")),
        b"K": lambda self: self.push(self._file.number("<B")),
        b"M": lambda self: self.push(self._file.number("<H")),
        b"G": lambda self: self.push(self._file.number(">d")),
        b"U": lambda self: self.push(self._file.counted("<B").decode("latin1")),
        b"T": lambda self: self.push(self._file.counted("<i").decode("latin1")),
        b"X": lambda self: self.push(self._file.counted("<I").decode()),
        b")": lambda self: self.push(()),
        b"]": lambda self: self.push([]),
        b"}": lambda self: self.push({}),
        b"e": lambda self: self._append(self._marked()),
        b"u": lambda self: self._put_in(self._marked()),
        b"q": lambda self: self._keep(self._file.number("<B")),
        b"r": lambda self: self._keep(self._file.number("<I")),
        b"h": lambda self: self._again(self._file.number("<B")),
        b"j": lambda self: self._again(self._file.number("<I")),
        # Protocol 2
        b"\x80": lambda self: self._protocol(),
        b"\x88": lambda self: self.push(True),
        b"\x89": lambda self: self.push(False),
        b"\x85": lambda self: self._tuple(self._last(1)),
        b"\x86": lambda self: self._tuple(self._last(2)),
        b"\x87": lambda self: self._tuple(self._last(3)),
        b"\x8a": lambda self: self.push(int.from_bytes(self._file.counted("<B"), "little", signed=True)),
        # Protocols 3 to 5
        b"C": lambda self: self.push(self._file.counted("<B")),
        b"B": lambda self: self.push(self._file.counted("<I")),
        b"\x8c": lambda self: self.push(self._file.counted("<B").decode()),
        b"\x8d": lambda self: self.push(self._file.counted("<Q").decode()),
        b"\x8e": lambda self: self.push(self._file.counted("<Q")),
        b"\x93": lambda self: self._name(*self._last(2)),
        b"\x94": lambda self: self._keep(len(self._memo)),
        b"\x95": lambda self: self._file.frame(),
        b"\x96": lambda self: self.push(self._file.counted("<Q")),
    }
