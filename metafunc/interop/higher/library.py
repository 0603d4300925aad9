"""The installed higher, loaded on use."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from metafunc import errors


def load(module: str = "higher") -> Any:
    """A module of the installed library.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of its source, when it is compiled
            return importlib.import_module(module)
    except ImportError as error:
        raise errors.not_installed("metafunc.interop.higher", "higher", "higher") from error


def attribute(module: str, name: str) -> Any:
    """An attribute of a module of the installed library."""
    if name.startswith("__"):  # what Python itself asks of a module is answered by the module asked
        raise AttributeError(name)
    return getattr(load(module), name)


def names(module: str) -> list[str]:
    """The public names of a module of the installed library."""
    return [name for name in dir(load(module)) if not name.startswith("_")]
