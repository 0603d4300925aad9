"""The helpers of the installed higher, name by name."""

from __future__ import annotations

from typing import Any

from metafunc.interop.higher.library import attribute, names


def __getattr__(name: str) -> Any:
    return attribute("higher.utils", name)


def __dir__() -> list[str]:
    return names("higher.utils")
