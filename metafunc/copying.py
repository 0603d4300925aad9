"""Copies of modules that were run."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from metafunc import errors, tree
from metafunc.autodiff import without_dead_levels


def deep_copy(module: nn.Module, name: str) -> nn.Module:
    """``copy.deepcopy`` of a module that may keep what a forward pass made, such as an activation.

    Such tensors belong to a graph or to a transform that has ended, and torch refuses to copy them; the copy has their
    values alone.

    Args:
        module: What is copied.
        name: What the user calls it.

    Raises:
        TypeError: If an attribute cannot be copied.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        for leaf in tree.leaves(_attributes(part)):
            if isinstance(leaf, Tensor):
                plain = without_dead_levels([leaf])[0]
                if plain is not leaf or not leaf.is_leaf:
                    memo[id(leaf)] = plain.detach().clone()
    try:
        return copy.deepcopy(module, memo)
    except (TypeError, RuntimeError, AttributeError, NotImplementedError) as error:
        found = _in_the_way(module, memo)
        if found is None:
            raise
        raise errors.not_copied(name, *found, error) from error


def _in_the_way(module: nn.Module, memo: dict[int, Any]) -> tuple[str, Any] | None:
    """The first attribute that cannot be copied, with its path."""
    parts: dict[str, nn.Module] = dict(module.named_modules())
    for path, part in parts.items():
        for key, value in _attributes(part).items():
            with suppress(Exception):
                copy.deepcopy(value, {**memo})
                continue
            return f"{path}.{key}".lstrip("."), value
    return None


def _attributes(part: nn.Module) -> dict[str, Any]:
    """What a module has beside parameters, buffers and submodules."""
    return {
        key: value for key, value in vars(part).items() if key not in ("_parameters", "_buffers", "_modules")
    }
