"""What a function or an object remembers from call to call: closures, attributes, lists and dicts."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor

Memory = list[tuple[Any, Any]]
"""Every place that can be written to, with a copy of what is there."""

_STOP = (type, ModuleType, Tensor, str, bytes, int, float, complex, type(None))


def memory(root: Any) -> Memory:
    """What can be reached from ``root`` and written to, as it is now."""
    found: Memory = []
    seen: set[int] = set()
    queue: list[Any] = [root]
    while queue:
        x = queue.pop()
        if id(x) in seen or isinstance(x, _STOP):
            continue
        seen.add(id(x))
        if isinstance(x, FunctionType):
            queue += [*(x.__closure__ or ()), x.__defaults__]
        elif isinstance(x, MethodType):
            queue += [x.__self__, x.__func__]
        elif isinstance(x, partial):
            queue += [x.func, x.args, x.keywords]
        elif isinstance(x, tuple | set | frozenset):
            queue += list(x)
        elif isinstance(x, CellType | dict | list):
            content = _read(x)
            found.append((x, content))
            queue += (
                [content] if isinstance(x, CellType) else list(content.values() if isinstance(x, dict) else x)
            )
        elif hasattr(x, "__dict__"):
            queue.append(vars(x))
    return found


def alike(one: Memory, other: Memory) -> bool:
    """Whether two memories are the same, by identity or as plain values."""
    return len(one) == len(other) and all(
        a is b and len(x := _parts(a, found)) == len(y := _parts(b, there)) and all(map(_same, x, y))
        for (a, found), (b, there) in zip(one, other, strict=True)
    )


def tensors_changed(one: Memory, other: Memory) -> bool:
    """Whether ``other`` holds tensors that ``one`` does not: numbers that came from data."""
    known = {id(x) for place, content in one for x in _parts(place, content)}
    return any(
        isinstance(x, Tensor) and id(x) not in known
        for place, content in other
        for x in _parts(place, content)
    )


@contextmanager
def recalled(what: Memory) -> Generator[None]:
    """Within it things are remembered so; afterwards as before."""
    own = [(place, _read(place)) for place, _ in what]
    _write(what)
    try:
        yield
    finally:
        _write(own)


def _read(place: Any) -> Any:
    if isinstance(place, CellType):
        try:
            return place.cell_contents
        except ValueError:  # nothing was assigned yet
            return None
    return place.copy()


def _write(what: Memory) -> None:
    for place, content in what:
        if isinstance(place, CellType):
            place.cell_contents = content
        elif isinstance(place, list):
            place[:] = content
        else:
            place.clear()
            place.update(content)


def _parts(place: Any, content: Any) -> list[Any]:
    if isinstance(place, CellType):
        return [content]
    return [x for item in content.items() for x in item] if isinstance(place, dict) else content


def _same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, _STOP) and not isinstance(a, Tensor) and a == b)
