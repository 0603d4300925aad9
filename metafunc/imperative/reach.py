"""What the graph of a step depends on beside the tensors that the step starts from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.utils.checkpoint import CheckpointFunction

from metafunc.imperative.errors import entangled_loops, recomputed_by_torch, second_derivative_of_loop
from metafunc.imperative.gate import AccumulateGrad, Mark, Node, mark_of, output_of

Edge: TypeAlias = tuple[Node, int]
"""A tensor's place in the graph: the node that made it, or that accumulates its gradient, and the number of output."""


def edges(tensors: Iterable[Tensor]) -> set[Edge]:
    """The places of tensors that require a gradient."""
    return {edge(x) for x in tensors}


def edge(x: Tensor) -> Edge:
    """The place of a tensor that requires a gradient."""
    found = get_gradient_edge(x)
    return found.node, found.output_nr


def reach(of: Iterable[Tensor], end: set[Edge]) -> dict[Edge, Tensor]:
    """The leaves and the fast parameters of loops that a graph depends on, other than through ``end``.

    A fast parameter is a tensor of its own, whatever it depends on: its gate knows how to pass a cotangent on.
    """
    found: dict[Edge, Tensor] = {}
    pending: list[Edge] = [(x.grad_fn, x.output_nr) if x.grad_fn else edge(x) for x in of if x.requires_grad]
    seen: set[Node] = set()
    while pending:
        at = pending.pop()
        node, i = at
        if node is None or node in seen or at in end:
            continue
        if mark_of(node) is not None:
            found[at] = output_of(node, i)
            continue
        seen.add(node)
        if isinstance(node, AccumulateGrad):
            found[at] = node.variable
        pending += node.next_functions
    return found


def feeds(grads: Iterable[Tensor], beside: dict[Edge, Tensor], end: set[Edge]) -> dict[Edge, Tensor]:
    """What gradients of a loss depend on, of what the loss depends on, ``beside``: some of it may only add to the loss.

    A function without a second derivative hides what its gradient depends on, behind leaves of its own: all, then.
    """
    found = reach(grads, end)
    return found if found.keys() <= beside.keys() else beside


def check_loss(loss: Tensor, current: set[Edge], curved: bool) -> None:
    """Raise if a loss hides something of the fast parameters from plain autograd.

    Args:
        loss: The loss of a step.
        current: The places of the fast parameters.
        curved: Whether an estimator will differentiate the gradient of the loss.

    Raises:
        ValueError: If it depends on them through steps of another loop that an estimator differentiates: what that
            drops would be missing from the gradient that the step takes.
        SecondDerivativeError: If there is such a loop, even one that starts at them, and the gradient is to be
            differentiated.
        NotImplementedError: If it holds a reentrant ``torch.utils.checkpoint``.
    """
    # A node made before the fast parameters cannot depend on them.
    made = [node._sequence_nr() for node, _ in current]
    floor = 0 if any(isinstance(node, AccumulateGrad) for node, _ in current) else min(made, default=0)
    pending: list[tuple[Edge, Mark | None, bool]] = [((loss.grad_fn, loss.output_nr), None, False)]
    seen: set[tuple[Node, bool, bool]] = set()
    while pending:
        at, by, aside = pending.pop()
        node, _ = at
        if node is None:
            continue
        if at in current:
            if by is not None and curved:
                raise second_derivative_of_loop(by.name)
            if by is not None and aside:
                raise entangled_loops(by.name)
            continue
        if (node, by is not None, aside) in seen or node._sequence_nr() < floor:
            continue
        seen.add((node, by is not None, aside))
        if getattr(type(node), "_forward_cls", None) is CheckpointFunction:
            raise recomputed_by_torch()
        mark = mark_of(node)
        estimates = mark is not None and mark.estimates
        for k, following in enumerate(node.next_functions):
            if estimates:
                pending.append((following, mark, aside or k >= mark.starts))
            else:
                pending.append((following, by, aside))
