"""A loss that has been computed from some tensors, as a function of others that are equal to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from metafunc.imperative.errors import no_fast_weights
from metafunc.imperative.gate import closed, mark_of
from metafunc.imperative.reach import check_loss, edges, feeds, reach
from metafunc.imperative.record import bent_gradients, gradients


def rebased(loss: Tensor, old: Sequence[Tensor], new: Sequence[Tensor], bends: bool) -> Tensor:
    """The loss with ``new`` in the place of ``old``, which have the same values.

    The graph of the loss is made use of, not run again: it gives the first derivatives in ``new``, and the second ones
    in ``new`` and in whatever else the loss depends on. It must not be freed meanwhile.

    Args:
        loss: The loss.
        old: The tensors that it has been computed from.
        new: Those to take their places.
        bends: Whether second derivatives will be taken.

    Raises:
        ValueError: If the loss does not depend on ``old``.
        NotImplementedError: If the loss holds a ``torch.utils.checkpoint``, which would recompute it later.
    """
    if not loss.requires_grad:
        raise no_fast_weights()
    fast = edges(x for x in old if x.requires_grad)
    check_loss(loss, fast, curved=bends)
    slopes = bent_gradients([loss], list(old)) if bends else gradients([loss], list(old), create_graph=True)
    if all(g is None for g in slopes):
        raise no_fast_weights()
    beside = feeds([g for g in slopes if g is not None], reach([loss], fast), fast)
    others = list(beside.values())
    return _loss(loss.detach(), slopes, old, others, *new, *others)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        slopes: Sequence[Tensor | None],
        old: Sequence[Tensor],
        others: Sequence[Tensor],
        *inputs: Tensor,
    ) -> Tensor:
        ctx.slopes, ctx.old, ctx.others = slopes, old, others
        ctx.save_for_backward(*inputs)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        inputs: tuple[Tensor, ...] = ctx.saved_tensors
        present = [g for g in ctx.slopes if g is not None]
        found = iter(_slope(present, ctx.old, ctx.others, *inputs))
        bars = [None if g is None else cotangents[0] * next(found) for g in ctx.slopes]
        return (None, None, None, None, *bars, *(None for _ in ctx.others))


class _Slope(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, slopes: list[Tensor], old: Sequence[Tensor], others: Sequence[Tensor], *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.slopes, ctx.old, ctx.others = slopes, old, others
        ctx.set_materialize_grads(False)
        return tuple(g.detach() for g in slopes)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.slopes, cotangents, strict=True)
        bent = [(g, c) for g, c in pairs if g.requires_grad and c is not None]
        nothing = (None,) * 3
        if not bent:
            return *nothing, *(None for _ in (*ctx.old, *ctx.others))
        of, weights = [g for g, _ in bent], [c for _, c in bent]
        return *nothing, *_partial(of, weights, ctx.old, ctx.others)


def _partial(
    of: list[Tensor], weights: list[Tensor], old: Sequence[Tensor], others: Sequence[Tensor]
) -> list[Tensor | None]:
    """The derivatives in ``old`` and in ``others`` where neither depends on the other."""
    marks = [mark_of(x.grad_fn) for x in (*old, *others)]
    with closed({mark.switch for mark in marks if mark is not None}):
        at_old, at_others = [
            gradients(of, list(at), weights, retain_graph=True) if at else () for at in (old, others)
        ]
        # What has come to the others by way of the old ones is the business of the new ones.
        made = [(x, bar) for x, bar in zip(old, at_old, strict=True) if bar is not None and x.grad_fn]
        if not made or not others:
            return [*at_old, *at_others]
        values, bars = [x for x, _ in made], [bar for _, bar in made]
        double = gradients(values, list(others), bars, retain_graph=True)
    pairs = zip(at_others, double, strict=True)
    return [*at_old, *(x if y is None or x is None else x - y for x, y in pairs)]


_loss: Callable[..., Tensor] = getattr(_Loss, "apply")  # noqa: B009  (torch does not type it)
_slope: Callable[..., tuple[Tensor, ...]] = getattr(_Slope, "apply")  # noqa: B009
