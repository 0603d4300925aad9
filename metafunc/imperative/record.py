"""What is kept of a step: the graph from the tensors before it to those after it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from metafunc import tree
from metafunc.imperative.errors import dropped_steps, earlier_weights, recomputed_by_torch
from metafunc.imperative.gate import Mark, closed, mark_of
from metafunc.imperative.reach import Edge, edges, reach
from metafunc.tree import Tree

State = Tree
"""The state of an optimizer: a tree whose tensors may be part of the chain; ``None`` before the first step."""

Vector = dict[str, Tensor]
"""Tensors of the chain, or their cotangents, by name; a cotangent that is missing is zero."""

Key = TypeVar("Key")

Outside = dict[Edge, Tensor]
"""Cotangents of what a step depends on beside the chain, by their places in the graph."""


def gradients(
    of: list[Tensor], at: list[Tensor], weights: list[Tensor] | None = None, **keep: bool
) -> tuple[Tensor | None, ...]:
    """``torch.autograd.grad`` with ``None`` where nothing depends on a tensor."""
    return torch.autograd.grad(of, at, weights, allow_unused=True, **keep)


def bent_gradients(of: list[Tensor], at: list[Tensor]) -> tuple[Tensor | None, ...]:
    """Gradients with a graph of their own, whose derivatives are taken later, when other fast parameters are in place.

    Raises:
        NotImplementedError: If the backward recomputes a part of the forward pass, which it would do again then.
    """
    with no_recomputation(of, at):
        return gradients(of, at, create_graph=True)


@contextmanager
def no_recomputation(of: list[Tensor], at: list[Tensor]) -> Generator[None, None, None]:
    """While gradients of ``of`` in ``at`` are taken, refuse a recomputation: it sets up hooks on saved tensors."""
    if _hooks._top_saved_tensors_default_hooks(True) is None:
        with _without_hooks():
            yield
    else:  # hooks of the user's own, which would not be called
        with _without_hooks():
            gradients(of, at, retain_graph=True)
        yield


@contextmanager
def _without_hooks() -> Generator[None, None, None]:
    before = _hooks._saved_tensors_hooks_get_disabled_error_message()
    _hooks._saved_tensors_hooks_disable(_RECOMPUTED, False)
    try:
        yield
    except RuntimeError as error:
        if _RECOMPUTED in str(error):
            raise recomputed_by_torch() from error
        raise
    finally:
        if before is None:
            _hooks._saved_tensors_hooks_enable()
        else:
            _hooks._saved_tensors_hooks_disable(before, False)


# What torch.autograd.graph.disable_saved_tensors_hooks is made of, which fails where hooks are in use already.
_hooks: Any = getattr(torch, "_C")._autograd  # noqa: B009
_RECOMPUTED = str(recomputed_by_torch())


class Step:
    """The graph of one step, or of another function of the tensors before it.

    Attributes:
        outside: What the graph depends on beside the tensors before it: leaves, the first fast parameters, and the fast
            parameters of other loops.
    """

    def __init__(self, before: Vector, after: Vector, mark: Mark) -> None:
        self.outside = reach(after.values(), edges(before.values()))
        others = [mark_of(node) for node, _ in self.outside]
        if any(other.switch is mark.switch and other.stage > 0 for other in others if other):
            raise earlier_weights(mark.name)
        self._switches = {mark.switch, *(other.switch for other in others if other)}
        self._name = mark.name
        self._kept: tuple[Vector, Vector] | None = before, after

    @property
    def before(self) -> Vector:
        """The tensors before the step. Raises if the graph is gone."""
        if self._kept is None:
            raise dropped_steps(self._name)
        return self._kept[0]

    def drop(self) -> None:
        """Let go of the graph."""
        self._kept, self.outside = None, {}

    def pull(self, v: Vector) -> tuple[Vector, Outside]:
        """From a cotangent of the tensors after the step to that of those before it and of ``outside``.

        Raises:
            RuntimeError: If the graph is gone.
        """
        if self._kept is None:
            raise dropped_steps(self._name)
        before, after = self._kept
        names = [name for name in after if name in v]
        if not names:
            return {}, {}
        with closed(self._switches):
            bars = gradients(
                [after[name] for name in names],
                [*before.values(), *self.outside.values()],
                [v[name] for name in names],
                retain_graph=True,
            )
        back = {name: bar for name, bar in zip(before, bars, strict=False) if bar is not None}
        beside = zip(self.outside, bars[len(before) :], strict=True)
        return back, {place: bar for place, bar in beside if bar is not None}


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


def detached(state: Tree) -> Tree:
    """The same without a history."""
    return tree.map(lambda x: x.detach() if isinstance(x, Tensor) and x.requires_grad else x, state)


def only_params(v: Vector) -> Vector:
    """The part of a cotangent that belongs to the parameters."""
    return {name: bar for name, bar in v.items() if not name.startswith("state")}


def merged(v: dict[Key, Tensor], more: dict[Key, Tensor]) -> dict[Key, Tensor]:
    """The sum of two cotangents."""
    return v | {name: v[name] + bar if name in v else bar for name, bar in more.items()}


def scaled(factor: float, v: dict[Key, Tensor]) -> dict[Key, Tensor]:
    """The multiple of a cotangent."""
    return {name: factor * bar for name, bar in v.items()}
