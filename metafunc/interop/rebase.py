"""A loss that has been computed from some tensors, as a function of others that are equal to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from metafunc.imperative.errors import no_fast_weights
from metafunc.imperative.record import gradients


def rebased(loss: Tensor, old: Sequence[Tensor], new: Sequence[Tensor]) -> Tensor:
    """The loss with ``new`` in the place of ``old``, which have the same values.

    The graph of the loss is made use of, not run again: it gives the first derivatives in ``new``, and the second ones
    in ``new`` and in all other leaves that the loss depends on. It must not be freed meanwhile.

    Raises:
        ValueError: If the loss does not depend on ``old``.
    """
    if not loss.requires_grad:
        raise no_fast_weights()
    slopes = gradients([loss], list(old), create_graph=True)
    if all(g is None for g in slopes):
        raise no_fast_weights()
    others = _leaves([g for g in slopes if g is not None], old)
    return _loss(loss.detach(), slopes, (*old, *others), *new, *others)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, slopes: Sequence[Tensor | None], at: Sequence[Tensor], *inputs: Tensor
    ) -> Tensor:
        ctx.slopes, ctx.at = slopes, at
        ctx.save_for_backward(*inputs)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        inputs: tuple[Tensor, ...] = ctx.saved_tensors
        present = [g for g in ctx.slopes if g is not None]
        found = iter(_slope(present, ctx.at, *inputs))
        bars = [None if g is None else cotangents[0] * next(found) for g in ctx.slopes]
        return (None, None, None, *bars, *(None for _ in inputs[len(bars) :]))


class _Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, slopes: list[Tensor], at: Sequence[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.slopes, ctx.at = slopes, at
        ctx.set_materialize_grads(False)
        return tuple(g.detach() for g in slopes)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.slopes, cotangents, strict=True)
        bent = [(g, c) for g, c in pairs if g.requires_grad and c is not None]
        if not bent:
            return (None,) * (2 + len(ctx.at))
        of, weights = [g for g, _ in bent], [c for _, c in bent]
        return None, None, *gradients(of, list(ctx.at), weights, retain_graph=True)


def _leaves(of: Iterable[Tensor], end: Sequence[Tensor]) -> list[Tensor]:
    """The leaves that a graph depends on other than through ``end``."""
    ends = {x.grad_fn for x in end if x.grad_fn is not None}
    known = {id(x) for x in end}
    found: dict[int, Tensor] = {}
    pending: list[Any] = [x.grad_fn for x in of]
    seen: set[Any] = {None}
    while pending:
        node = pending.pop()
        if node in seen or node in ends:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            found[id(leaf)] = leaf
        pending += [following for following, _ in node.next_functions]
    return list(found.values())


_loss: Callable[..., Tensor] = getattr(_Loss, "apply")  # noqa: B009  (torch does not type it)
_slope: Callable[..., tuple[Tensor, ...]] = getattr(_Slope, "apply")  # noqa: B009
