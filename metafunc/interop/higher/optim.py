"""The differentiable optimizers of the installed higher, name by name."""

from __future__ import annotations

from typing import Any

from metafunc.interop.library import HIGHER


def __getattr__(name: str) -> Any:
    return HIGHER.attribute(name, "optim")


def __dir__() -> list[str]:
    return HIGHER.names("optim")
