"""Pickles of arrays and containers, read without running what else they may hold."""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast, final

import numpy as np
from numpy.typing import NDArray

from metafunc.data.formats.pixels import describe
from metafunc.data.tasks import refusal


def load(file: Path) -> Any:
    """What a pickle holds, from Python 2 or 3 and from numpy 1 or 2.

    A pickle is a program: it names functions and has them called. Here a name is looked up in a table of the few
    that arrays and containers need, never in a module, so that a hostile file runs nothing.

    Raises:
        ValueError: the pickle asks for a name outside the table, or is no whole pickle. The message has the name.
    """
    with file.open("rb") as stream:
        try:
            return _Restricted(stream).load()
        except _AsksForMoreError as error:
            raise refusal(
                str(file),
                "a pickle of numpy arrays, numbers, strings, lists and dicts alone",
                f"one that asks for {error}",
                "do not unpickle this file by other means either, unless you trust its source",
            ) from None
        # A malformed pickle raises whatever the operation it spoils raises.
        except Exception as error:
            raise refusal(
                str(file), "a whole pickle", str(error) or type(error).__name__, "get the file again"
            ) from error


def entry(contents: Any, key: str, file: Path) -> Any:
    """One entry of a dict that was pickled; Python 2 may have written its keys as bytes.

    Raises:
        ValueError: it is no dict, or has no such entry.
    """
    if not isinstance(contents, dict):
        raise refusal(str(file), f"a dict with {key!r}", describe(contents), "get the file again")
    named = {text(name): value for name, value in cast(dict[Any, Any], contents).items()}
    if key not in named:
        got = ", ".join(repr(name) for name in named) or "an empty one"
        raise refusal(str(file), f"a dict with {key!r}", got, "get the file again, or rename its entry")
    return named[key]


def text(value: Any) -> str:
    """A name or number that was pickled, as a string."""
    return value.decode() if isinstance(value, bytes) else str(value)


class _AsksForMoreError(Exception):
    """The name that a pickle may not have."""


@final
class _Array:
    """Stands for the class `numpy.ndarray`, which pickles name but have no need to call."""

    def __new__(cls, *_: Any) -> "_Array":
        raise _AsksForMoreError("a call of numpy.ndarray")


def _reconstruct(_kind: object, _shape: object, _dtype: object) -> NDArray[Any]:
    """An empty array, which the pickle then gives its state."""
    return np.empty(0, np.uint8)


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> NDArray[Any]:
    flat = np.frombuffer(buffer, dtype=dtype)
    # Some versions of numpy 2 keep the order of the axes of an array that is laid out neither by rows nor by columns.
    return flat.reshape(shape, order=order) if axes is None else flat.reshape(shape).transpose(axes)


def _scalar(dtype: Any, data: Any) -> Any:
    if dtype.hasobject:
        raise _AsksForMoreError("a numpy scalar that holds objects")
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype)[0]


def _encode(string: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise _AsksForMoreError(f"the codec {encoding!r}")
    return string.encode("latin1")


def _dtype(kind: Any, *flags: Any) -> np.dtype[Any]:
    if not isinstance(kind, str) or kind.lstrip("<>|=")[:1] not in tuple("?biufSUO"):
        raise _AsksForMoreError(f"the dtype {kind!r}")
    return np.dtype(kind, *flags)


_PLAIN = (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)
_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in _PLAIN},
    # numpy 2 moved its core, and files of either spelling are about.
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


class _Restricted(pickle.Unpickler):
    def __init__(self, stream: BinaryIO) -> None:
        # Python 2 has one type for text and bytes; latin1 keeps every byte, and is what numpy asks for.
        super().__init__(stream, encoding="latin1")

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        known = _KNOWN.get((module_name, global_name))
        if known is None:
            raise _AsksForMoreError(f"{module_name}.{global_name}")
        return known

    def persistent_load(self, pid: Any, /) -> Any:
        raise _AsksForMoreError(f"the outside object {pid!r}")
