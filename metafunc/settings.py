"""Hyperparameters of an inner solver that may be constants, tensors, trees, or functions of the meta-parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor

from metafunc import errors, options, tree
from metafunc.inner import Args, Bound
from metafunc.tree import Tree

Setting: TypeAlias = float | Tensor | Callable[[Tree], Any] | dict[str, Any] | list[Any] | tuple[Any, ...]
"""A float, a tensor, a tree of these shaped like the parameters, or a function from ``theta`` to any of these."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Named settings, each read off the arguments of a solve by its reader.

    A tensor given at declaration becomes part of the arguments of every solve (``Args.hyper``), so that gradients flow
    to it as they do to ``theta``.
    """

    values: dict[str, Setting]

    @property
    def hyper(self) -> dict[str, Tree]:
        """The settings that are tensors, or trees with tensors in them."""
        return {
            name: value
            for name, value in self.values.items()
            if not callable(value) and any(isinstance(leaf, Tensor) for leaf in tree.leaves(value))
        }

    @property
    def readers(self) -> dict[str, Callable[[Args], Any]]:
        """For every setting the function that reads it off the arguments of a solve."""
        return {name: self._reader(name, value) for name, value in self.values.items()}

    @staticmethod
    def _reader(name: str, value: Any) -> Callable[[Args], Any]:
        if callable(value):
            return lambda args: value(args.theta)
        return Bound(lambda args: args.hyper.get(name, value), own=True)


def check_setting(
    name: str, value: Any, example: float, *, high: float = math.inf, ends: Literal["[)", "()"] = "[)"
) -> None:
    """Raise unless a setting is of a kind that can be one and, where it is a plain number, between 0 and ``high``."""
    if callable(value):
        return
    for leaf in tree.leaves(value):
        if isinstance(leaf, Tensor):
            if not leaf.is_floating_point():
                raise errors.not_a(name, "a floating-point tensor", leaf)
        elif options.is_number(leaf):
            options.number(name, leaf, example, high=high, ends=ends)
        else:
            raise errors.not_a(name, "a float, a tensor, a tree of these, or a function of theta", leaf)
