"""Packages that only some forms of data need."""

from importlib import import_module
from typing import Any


def optional(module: str, package: str) -> Any:
    """A module of a package that the extra `data` installs.

    Raises:
        ImportError: the package is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{package}: expected it to be installed, since the data needs it, got none. "
            "Run pip install 'metafunc[data]'."
        ) from error
