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
    ends = {node for node, _ in current}
    # A node made before the fast parameters cannot depend on them.
    floor = 0 if any(isinstance(node, AccumulateGrad) for node in ends) else min(map(_made, ends), default=0)
    gates: list[Node] = []
    pending: list[Node] = [loss.grad_fn]
    seen: set[Node] = {None, *ends}
    while pending:
        node = pending.pop()
        if node in seen or _made(node) < floor:
            continue
        seen.add(node)
        if getattr(type(node), "_forward_cls", None) is CheckpointFunction:
            raise recomputed_by_torch()
        mark = mark_of(node)
        if mark is not None and mark.estimates:
            gates.append(node)
        else:
            pending += [following for following, _ in node.next_functions]
    _check_gates(gates, ends, floor, curved)


def _check_gates(gates: list[Node], ends: set[Node], floor: int, curved: bool) -> None:
    """Raise if one of these lets through what it should not: see :func:`check_loss`."""
    pending: list[tuple[Node, Mark | None, bool]] = [(node, None, False) for node in gates]
    seen: set[tuple[Node, bool]] = set()
    while pending:
        node, by, aside = pending.pop()
        if node is None or (node, aside) in seen or _made(node) < floor:
            continue
        seen.add((node, aside))
        mark = mark_of(node)
        if node in ends:
            assert by is not None
            if curved:
                raise second_derivative_of_loop(by.name)
            if aside:
                raise entangled_loops(by.name)
        elif mark is not None and mark.estimates:
            following = enumerate(node.next_functions)
            pending += [(other, mark, aside or k >= mark.starts) for k, (other, _) in following]
        else:
            pending += [(other, by, aside) for other, _ in node.next_functions]


def _made(node: Node) -> int:
    """When a node was made: a number that grows."""
    return node._sequence_nr()
