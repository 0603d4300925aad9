"""Pickles of arrays and containers, read as data: nothing in them is ever run."""

from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from metafunc.data.formats.pickle_machine import Machine
from metafunc.data.formats.pickle_names import AsksForMoreError
from metafunc.data.formats.pickle_stream import BrokenPickleError
from metafunc.data.formats.pixels import describe
from metafunc.data.tasks import refusal


def load(file: Path) -> Any:
    """What a pickle holds, from Python 2 or 3 and from numpy 1 or 2: lists, tuples, dicts, numbers, strings, bytes, and
    arrays of numbers.

    A pickle is a program: it names functions, and has them called and their results changed. Here it is read as data
    by a machine of our own, which has no way to reach a function: arrays are made by the reader, out of bytes of the
    file, when their dtype and shape have been checked.

    Raises:
        ValueError: the pickle asks for anything else, or is no whole pickle. The message has the file, and what it is.
    """
    try:
        with file.open("rb") as stream:
            return Machine(stream, file.stat().st_size).run()
    except AsksForMoreError as error:
        raise refusal(
            str(file),
            "a pickle of numpy arrays, numbers, strings, lists and dicts alone",
            f"one that asks for {error}",
            "do not unpickle this file by other means either, unless you trust its source",
        ) from None
    except (BrokenPickleError, OSError) as error:
        raise refusal(str(file), "a whole pickle", error, "get the file again") from error
    # A malformed pickle raises whatever the operation it spoils raises.
    except Exception as error:
        got = f"an operation that cannot be done ({type(error).__name__}: {error})"
        raise refusal(str(file), "a whole pickle", got, "get the file again") from error


def entry(contents: Any, key: str, file: Path) -> Any:
    """One entry of a dict that was pickled; Python 2 may have written its keys as bytes.

    Raises:
        ValueError: it is no dict, or has no such entry.
    """
    if not isinstance(contents, dict):
        raise refusal(str(file), f"a dict with {key!r}", describe(contents), "get the file again")
    named = {_key(name): value for name, value in cast(dict[Any, Any], contents).items()}
    if key not in named:
        got = ", ".join(f"{name!r:.60}" for name in list(named)[:5]) or "an empty one"
        more = f" and {len(named) - 5} more" if len(named) > 5 else ""
        raise refusal(
            str(file), f"a dict with {key!r}", got + more, "get the file again, or rename its entry"
        )
    return named[key]


def has(contents: Any, key: str) -> bool:
    """Whether a dict that was pickled has an entry."""
    return key in contents or key.encode() in contents


def entries(contents: Any, key: str, file: Path) -> list[Any]:
    """The items of an entry that is a list."""
    return sequence(entry(contents, key, file), key, file)


def sequence(value: Any, what: str, file: Path) -> list[Any]:
    """The items of a list, a tuple or an array with one axis that was pickled.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return cast(NDArray[Any], value).tolist()
    if not isinstance(value, list | tuple):
        raise refusal(str(file), f"{what} as a list", describe(value), "get the file again")
    return list(cast(list[Any], value))


def number(value: Any, what: str, file: Path) -> int:
    """A whole number that was pickled.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise refusal(str(file), f"{what} as whole numbers", describe(value), "get the file again")
    return int(value)


def text(value: Any, what: str, file: Path) -> str:
    """A name or number that was pickled, as a string. Containers have none: they may share their parts, or hold
    themselves, and then the text of a short file has no end.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str | bytes):
        return _key(value)
    return str(number(value, f"{what} as text or", file))


def _key(name: Any) -> Any:
    return name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
