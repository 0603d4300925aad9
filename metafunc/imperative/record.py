"""What is kept of a step: the graph from the tensors before it to those after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from metafunc import tree
from metafunc.imperative.errors import dropped_steps, earlier_weights
from metafunc.imperative.gate import Mark
from metafunc.tree import Tree

State = Tree
"""The state of an optimizer: a tree whose tensors may be part of the chain; ``None`` before the first step."""

Vector = dict[str, Tensor]
"""Tensors of the chain, or their cotangents, by name; a cotangent that is missing is zero."""


def gradients(
    of: list[Tensor], at: list[Tensor], weights: list[Tensor] | None = None, **keep: bool
) -> tuple[Tensor | None, ...]:
    """``torch.autograd.grad`` with ``None`` where nothing depends on a tensor."""
    return torch.autograd.grad(of, at, weights, allow_unused=True, **keep)


class Step:
    """The graph of one step, or of another function of the tensors before it.

    Attributes:
        outside: What the graph depends on beside the tensors before it: leaves, and the first fast parameters.
    """

    def __init__(self, before: Vector, after: Vector, anchors: Vector, mark: Mark) -> None:
        found = _outside(after.values(), anchors.values(), mark)
        self.outside = list({id(x): x for x in found}.values())
        self._mark = mark
        self._kept: tuple[Vector, Vector] | None = before, after

    @property
    def before(self) -> Vector:
        """The tensors before the step. Raises if the graph is gone."""
        if self._kept is None:
            raise dropped_steps(self._mark.name)
        return self._kept[0]

    def drop(self) -> None:
        """Let go of the graph."""
        self._kept, self.outside = None, []

    def pull(self, v: Vector) -> tuple[Vector, list[Tensor | None]]:
        """From a cotangent of the tensors after the step to that of those before it and of ``outside``.

        Raises:
            RuntimeError: If the graph is gone.
        """
        if self._kept is None:
            raise dropped_steps(self._mark.name)
        before, after = self._kept
        names = [name for name in after if name in v]
        if not names:
            return {}, [None] * len(self.outside)
        with self._mark.closed():
            bars = gradients(
                [after[name] for name in names],
                [*before.values(), *self.outside],
                [v[name] for name in names],
                retain_graph=True,
            )
        back = dict(zip(before, bars, strict=False))
        return {name: bar for name, bar in back.items() if bar is not None}, list(bars[len(before) :])


def _outside(after: Iterable[Tensor], anchors: Iterable[Tensor], mark: Mark) -> Iterator[Tensor]:
    """The leaves that a graph reaches without passing through the chain, and the anchors it reaches."""
    pending: list[Any] = [x.grad_fn for x in after]
    seen: set[Any] = set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        stage = mark.stage_of(node)
        if stage is None:
            leaf = getattr(node, "variable", None)
            if leaf is not None:
                yield leaf
            pending += [following for following, _ in node.next_functions]
        elif stage == 0 and mark.stage > 0:
            yield from anchors
        elif stage != mark.stage:
            raise earlier_weights(mark.name)


def named(params: list[Tensor], state: State) -> Vector:
    """The tensors of a chain that take part in its derivative."""
    found = {str(i): x for i, x in enumerate(params)}
    found |= {f"state{path}": x for path, x in zip(tree.paths(state), tree.leaves(state), strict=True)}
    return {name: x for name, x in found.items() if tree.is_float(x) and x.requires_grad}


def renamed(params: list[Tensor], state: State, new: Vector) -> tuple[list[Tensor], State]:
    """The same parameters and state with ``new`` in the places that its names stand for."""
    swapped = [new.get(str(i), x) for i, x in enumerate(params)]
    pairs = zip(tree.paths(state), tree.leaves(state), strict=True)
    return swapped, tree.rebuild(tree.structure(state), [new.get(f"state{path}", x) for path, x in pairs])


def only_params(v: Vector) -> Vector:
    """The part of a cotangent that belongs to the parameters."""
    return {name: bar for name, bar in v.items() if not name.startswith("state")}


def merged(v: Vector, more: Vector) -> Vector:
    """The sum of two cotangents."""
    return v | {name: v[name] + bar if name in v else bar for name, bar in more.items()}


def scaled(factor: float, v: Vector) -> Vector:
    """The multiple of a cotangent."""
    return {name: factor * bar for name, bar in v.items()}
