"""Checks of options, one for each kind: all parts of the package refuse the same values, in the same words.

What is of the wrong kind is a ``TypeError``, what is out of range a ``ValueError``. A boolean is no number, and numpy's
scalars count as Python's.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from metafunc import errors


def integer(
    name: str, value: Any, example: Any, *, low: int = 1, high: int | None = None, optional: bool = False
) -> None:
    """Raise unless an option is an integer in ``low..high``, or ``None`` where it may be left out."""
    if optional and value is None:
        return
    within = f"of at least {low}" if high is None else f"in {low}..{high}"
    expected, hint = _words(name, f"an integer {within}", example, optional)
    if not is_integer(value):
        raise errors.other_kind(name, expected, value, hint)
    if value < low or (high is not None and value > high):
        raise errors.out_of_range(name, value, expected, hint)


def number(
    name: str,
    value: Any,
    example: Any,
    *,
    low: float = 0.0,
    high: float = math.inf,
    ends: Literal["[)", "()", "[]"] = "[)",
    optional: bool = False,
) -> None:
    """Raise unless an option is a finite number between ``low`` and ``high``; ``ends`` are those of the interval."""
    if optional and value is None:
        return
    expected, hint = _words(name, _interval(low, high, ends), example, optional)
    if not is_number(value):
        raise errors.other_kind(name, expected, value, hint)
    above = low < value if ends[0] == "(" else low <= value
    below = value <= high if ends[1] == "]" else value < high
    if not (above and below and math.isfinite(value)):
        raise errors.out_of_range(name, value, expected, hint)


def positive(name: str, value: Any, example: Any, *, optional: bool = False) -> None:
    """Raise unless an option is a finite number above 0."""
    number(name, value, example, ends="()", optional=optional)


def pair(name: str, value: Any, example: Any) -> None:
    """Raise unless an option is a pair of finite numbers."""
    ends: Any = value
    if not isinstance(value, tuple | list) or len(ends) != 2 or not all(map(is_number, ends)):
        raise errors.other_kind(name, "a pair of numbers", value, f"e.g. {name}={example}")
    for i, end in enumerate(ends):
        number(f"{name}[{i}]", end, example[i], low=-math.inf)


def boolean(name: str, value: Any) -> None:
    """Raise unless an option is a boolean."""
    if not isinstance(value, bool | np.bool_):
        raise errors.other_kind(name, "True or False", value, f"e.g. {name}=True")


def choice(name: str, value: Any, *among: str) -> None:
    """Raise unless an option is one of these words."""
    expected = " or ".join((", ".join(map(repr, among[:-1])), repr(among[-1])))
    if not isinstance(value, str):
        raise errors.other_kind(name, expected, value, f"e.g. {name}={among[0]!r}")
    if value not in among:
        raise errors.out_of_range(name, value, expected, f"e.g. {name}={among[0]!r}")


def function(name: str, value: Any, signature: str, *, optional: bool = False) -> None:
    """Raise unless an option can be called; ``signature`` says how it will be."""
    if not callable(value) and not (optional and value is None):
        raise errors.not_callable(name, signature, value)


def instance(
    name: str, value: Any, kind: type | tuple[type, ...], expected: str, *, optional: bool = False
) -> None:
    """Raise unless an option is of a class; ``expected`` says which there are, in the user's words."""
    if not isinstance(value, kind) and not (optional and value is None):
        raise errors.not_a(name, f"{expected}, or None" if optional else expected, value)


def is_integer(value: Any) -> bool:
    """Whether a value is a plain integer."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a plain real number."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _words(name: str, expected: str, example: Any, optional: bool) -> tuple[str, str]:
    if optional:
        return f"None or {expected}", f"e.g. {name}={example}, or leave it out"
    return expected, f"e.g. {name}={example}"


def _interval(low: float, high: float, ends: str) -> str:
    if high == math.inf:
        if low == -math.inf:
            return "a finite number"
        return "a positive number" if ends[0] == "(" else f"a number of at least {low:g}"
    return f"a number in {ends[0]}{low:g}, {high:g}{ends[1]}"
