"""Packages that only some forms of data need."""

from importlib import import_module
from typing import Any

from metafunc.errors import not_installed


def optional(module: str, package: str) -> Any:
    """A module of a package that the extra `data` installs.

    Raises:
        ImportError: the package is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise not_installed("data of this form", package, "data") from error
