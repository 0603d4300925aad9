"""An installed library, loaded on use."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from typing import Any

from metafunc import errors


@dataclass(frozen=True, slots=True)
class Library:
    """A library by its name, which is that of the extra to install it with too.

    Attributes:
        name: ``"higher"`` or ``"torchopt"``.
    """

    name: str

    def load(self, module: str = "") -> Any:
        """The library, or a module of it.

        Raises:
            ImportError: If it is not installed.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)  # of its source, when it is compiled
                return importlib.import_module(f"{self.name}.{module}" if module else self.name)
        except ImportError as error:
            raise errors.not_installed(f"metafunc.interop.{self.name}", self.name, self.name) from error

    def attribute(self, name: str, module: str = "") -> Any:
        """What the library has by that name."""
        if name.startswith("__"):  # what Python itself asks of a module is answered by the module asked
            raise AttributeError(name)
        return getattr(self.load(module), name)

    def names(self, module: str = "") -> list[str]:
        """Its public names."""
        return [name for name in dir(self.load(module)) if not name.startswith("_")]


HIGHER, TORCHOPT = Library("higher"), Library("torchopt")
