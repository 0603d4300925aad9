"""A module's parameters as places to read from and to write to, and a copy of a module with places of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn as nn
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """One parameter: its name, and every place that holds it (more than one if it is tied)."""

    name: str
    places: tuple[tuple[nn.Module, str], ...]

    def get(self) -> Tensor:
        """What stands there now."""
        module, key = self.places[0]
        return _parameters(module)[key]

    def put(self, value: Tensor) -> None:
        """Let ``value`` stand there, in all places. It need not be a leaf, nor an ``nn.Parameter``."""
        for module, key in self.places:
            _parameters(module)[key] = value


def slots(module: nn.Module) -> list[Slot]:
    """The places of all parameters, in the order of ``module.parameters()``."""
    found: dict[int, tuple[str, list[tuple[nn.Module, str]]]] = {}
    for prefix, part in _named(module):
        for key, value in _parameters(part).items():
            if value is not None:
                name = f"{prefix}.{key}" if prefix else key
                found.setdefault(id(value), (name, []))[1].append((part, key))
    return [Slot(name, tuple(places)) for name, places in found.values()]


def fill(places: Sequence[Slot], values: Sequence[Tensor]) -> None:
    """Put each value into its place."""
    for slot, value in zip(places, values, strict=True):
        slot.put(value)


def containers(module: nn.Module, kind: str) -> list[dict[str, Any]]:
    """The dictionaries, those with anything in them, in which the parts keep their ``_parameters`` or ``_buffers``."""
    return [found for part in module.modules() if (found := vars(part)[kind])]


def update(module: nn.Module, kind: str, values: Sequence[dict[str, Tensor]]) -> None:
    """Put values into those dictionaries."""
    for part, new in zip(containers(module, kind), values, strict=True):
        part.update(new)


def replica(module: nn.Module) -> nn.Module:
    """A copy of the module whose parameters and buffers are clones.

    Gradients flow through the clones. Mode, hooks and whatever else the module keeps in dictionaries and lists are its
    own too; parts that occur twice in the module occur twice in the copy.
    """
    tensors: dict[int, Tensor] = {}

    def cloned(x: Tensor | None) -> Tensor | None:
        if x is not None and id(x) not in tensors:
            tensors[id(x)] = x.clone()
        return None if x is None else tensors[id(x)]

    # Not by a function that calls itself: it would hold itself, and the copies, until the garbage collector comes.
    parts = {id(old): (old, old.__class__.__new__(old.__class__)) for old in module.modules()}
    for old, new in parts.values():
        own: dict[str, Any] = {}
        for k, v in vars(old).items():
            own[k] = copy.copy(v) if isinstance(v, dict | list) else v
        for kind in ("_parameters", "_buffers"):
            own[kind] = {k: cloned(x) for k, x in own[kind].items()}
        own["_modules"] = {k: None if x is None else parts[id(x)][1] for k, x in own["_modules"].items()}
        vars(new).update(own)
    return parts[id(module)][1]


def _named(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield from module.named_modules()


def _parameters(module: nn.Module) -> dict[str, Any]:
    return vars(module)["_parameters"]
