"""What estimators, solvers, curvatures and other plugs have in common: how they print."""

from __future__ import annotations

from dataclasses import MISSING, fields
from types import FunctionType
from typing import Any


class Plug:
    """A frozen dataclass that is declared once and then only read; it prints the options that were really given."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown: list[str] = []
        for field in fields(self):  # pyright: ignore[reportArgumentType]
            value: Any = getattr(self, field.name)
            if field.default is MISSING or value != field.default:
                shown.append(f"{field.name}={_name(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _name(value: Any) -> str:
    """A function by its name, anything else as it prints."""
    return value.__name__ if isinstance(value, FunctionType) else repr(value)
