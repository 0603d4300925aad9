"""What the few names that a pickle may have stand for."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple, cast, final

import numpy as np
from numpy.typing import NDArray

from metafunc.data.formats.pickle_stream import BrokenPickleError

DTYPES = {
    code: np.dtype(code) for code in ["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]
}
"""The plain numeric dtypes, by the names that numpy pickles them under."""
AXES = 32
"""As many as an array has at most."""


class AsksForMoreError(Exception):
    """A pickle has something in it that the data of no known data set needs. The message says what."""


class Name(NamedTuple):
    """A name in a pickle: it is not looked up anywhere, and nothing can be done to it but to have it called."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@final
class Pending:
    """What a pickle has begun, and gives its state afterwards.

    Attributes:
        finish: from the state to the value.
        keys: where it is in the memo, and the value will be.
    """

    def __init__(self, finish: Callable[[Any], Any]) -> None:
        self.finish = finish
        self.keys: list[int] = []


NDARRAY = Name("numpy", "ndarray")


@final
class Names:
    """Does what the calls in a pickle would do, for the calls that arrays and strings are pickled as.

    Args:
        size: of the pickle; what it has encoded anew takes no more bytes than that together. A string that is there
            once can be named any number of times.
    """

    def __init__(self, size: int) -> None:
        self._spare = size
        calls: dict[str, Callable[..., Any]] = {
            "numpy dtype": _begun_dtype,
            "_codecs encode": self._encoded,
            "collections OrderedDict": _ordered,
            "builtins bytes": _no_bytes,
            "__builtin__ bytes": _no_bytes,
        }
        # numpy 2 moved its core, and files of either spelling are about.
        for core in ("numpy.core", "numpy._core"):
            calls[f"{core}.multiarray _reconstruct"] = self._begun_array
            calls[f"{core}.multiarray scalar"] = self._scalar
            calls[f"{core}.numeric _frombuffer"] = self._from_buffer
        self._calls = {Name(*key.split()): call for key, call in calls.items()}

    def named(self, module: str, name: str) -> Name:
        """A name, if it is one of those."""
        known = Name(module, name)
        if known not in self._calls and known != NDARRAY:
            raise AsksForMoreError(str(known))
        return known

    def call(self, name: Any, arguments: Any) -> Any:
        """What the pickle has called."""
        if not isinstance(name, Name) or name not in self._calls:
            raise AsksForMoreError(f"a call of {_in_words(name)}")
        return self._calls[name](*arguments)

    def _begun_array(self, kind: Any, shape: Any, dtype: Any) -> Pending:
        # What these would make is empty; the array comes of the state.
        if (kind, shape) != (NDARRAY, (0,)) or dtype not in (b"b", "b"):
            raise AsksForMoreError("an array made in an unknown way")
        return Pending(self._array)

    def _array(self, state: Any) -> NDArray[Any]:
        version, shape, dtype, by_columns, data = state
        if version != 1:
            raise AsksForMoreError(f"version {_in_words(version)} of pickled arrays")
        return _laid_out(self._bytes(data), dtype, shape, "F" if by_columns else "C")

    def _from_buffer(self, buffer: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> NDArray[Any]:
        # Some versions of numpy 2 keep the order of the axes of an array that is laid out neither by rows nor by
        # columns.
        array = _laid_out(self._bytes(buffer), dtype, shape, "F" if order == "F" else "C")
        return array if axes is None else array.transpose(axes)

    def _scalar(self, dtype: Any, data: Any) -> Any:
        return _laid_out(self._bytes(data), dtype, (), "C")[()]

    def _encoded(self, string: Any, encoding: Any) -> bytes:
        if encoding not in ("latin1", "latin-1") or not isinstance(string, str):
            raise AsksForMoreError(f"the codec {_in_words(encoding)}")
        return self._bytes(string)

    def _bytes(self, data: Any) -> bytes:
        """The bytes of an array. Python 2 had one type for text and bytes, and latin1 keeps every byte."""
        if isinstance(data, bytes):
            return data
        if not isinstance(data, str):
            raise BrokenPickleError(f"an array whose bytes are a {type(data).__name__}")
        self._spare -= len(data)
        if self._spare < 0:
            raise BrokenPickleError("more bytes for its arrays than the file has")
        return data.encode("latin1")


def _laid_out(data: bytes, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
    """An array whose memory is `data`."""
    if not isinstance(dtype, np.dtype):
        raise BrokenPickleError(f"an array with a {type(dtype).__name__} for a dtype")
    sides = cast(tuple[Any, ...], shape if isinstance(shape, tuple) else (None,))
    # The product of very many very large numbers would take for ever.
    if len(sides) > AXES or not all(type(side) is int and side >= 0 for side in sides):
        raise BrokenPickleError(f"an array whose shape is no tuple of at most {AXES} whole numbers")
    kind = cast(np.dtype[Any], dtype)
    needed = prod(sides) * kind.itemsize
    if needed != len(data):
        raise BrokenPickleError(f"{len(data)} bytes for an array {kind} {list(sides)}, which takes {needed}")
    return np.ndarray(sides, kind, data, order="F" if order == "F" else "C")


def _begun_dtype(code: Any, *_flags: Any) -> Pending:
    if not isinstance(code, str) or code not in DTYPES:
        raise AsksForMoreError(f"the dtype {_in_words(code)}")
    return Pending(partial(_dtype, DTYPES[code]))


def _dtype(kind: np.dtype[Any], state: Any) -> np.dtype[Any]:
    """The dtype with the order of bytes that its state says; a plain one has nothing else in it."""
    version, order, *rest = state
    if version != 3 or rest[:5] != [None, None, None, -1, -1]:
        raise AsksForMoreError("a dtype that is no plain number")
    if order not in ("<", ">", "|", "="):
        raise BrokenPickleError("a dtype whose bytes have no known order")
    return kind.newbyteorder(order)


def _ordered(*contents: Any) -> dict[Any, Any]:
    """A plain dict keeps its order too. Python 2 gives a list of pairs; else what is in it comes later."""
    (pairs,) = contents or ((),)
    return {plain_key(key): plain(value) for key, value in pairs}


def _no_bytes(*contents: Any) -> bytes:
    """How Python 3 pickles empty bytes for Python 2."""
    if contents:
        raise AsksForMoreError("a call of bytes with an argument")
    return b""


def plain(value: Any) -> Any:
    """The value, if it may be in a container."""
    if isinstance(value, Pending | Name):
        raise AsksForMoreError(f"{_in_words(value)} in a container")
    return value


def plain_key(key: Any) -> Any:
    """The value, if it may be the key of a dict. Not a tuple: one of tuples that share parts is hashed part by part."""
    if key is None or isinstance(key, str | bytes | int | float | np.generic):
        return cast(Any, key)
    raise AsksForMoreError(f"{_in_words(key)} as the key of a dict")


def _in_words(value: Any) -> str:
    """A short name for anything. Containers are not looked into: they may share their parts, or hold themselves."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        return f"{value!r:.60}"
    return str(value) if isinstance(value, Name) else f"a {type(value).__name__}"
