"""Fast parameters that look to autograd like the outcome of one operation, whose backward is an estimator's."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metafunc.imperative.errors import second_derivative_of_loop

Pull = Callable[[list[Tensor | None]], list[Tensor | None]]
"""From the cotangents of what a gate gives out to those of what it depends on."""


@dataclass(slots=True)
class _Switch:
    closed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """Which chain a gate belongs to, and after how many steps it stands.

    While a single step is differentiated the gates of its chain are closed: what would flow further back through them
    is the business of the estimator.
    """

    name: str
    stage: int
    switch: _Switch

    @staticmethod
    def first(name: str) -> Mark:
        """The mark of the initial parameters of a new chain."""
        return Mark(name, 0, _Switch())

    def following(self) -> Mark:
        """The mark after one more step."""
        return Mark(self.name, self.stage + 1, self.switch)

    def stage_of(self, node: Any) -> int | None:
        """After how many steps of this chain a node of a graph stands, or ``None`` if it is no gate of this chain."""
        mark = getattr(node, "mark", None)
        return mark.stage if isinstance(mark, Mark) and mark.switch is self.switch else None

    @property
    def is_closed(self) -> bool:
        """Whether a step is being differentiated by itself."""
        return self.switch.closed

    @contextmanager
    def closed(self) -> Generator[None, None, None]:
        """No cotangent passes a gate of this chain meanwhile."""
        before, self.switch.closed = self.switch.closed, True
        try:
            yield
        finally:
            self.switch.closed = before


def gate(values: list[Tensor], inputs: list[Tensor], mark: Mark, pull: Pull) -> list[Tensor]:
    """``values`` as functions of ``inputs`` with the derivative ``pull``; a second derivative is refused."""
    return list(_apply([x.detach() for x in values], mark, pull, *inputs))


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: list[Tensor], mark: Mark, pull: Pull, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.mark, ctx.pull = mark, pull
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.mark.is_closed or all(c is None for c in cotangents):
            return (None,) * (3 + len(ctx.needs_input_grad[3:]))
        with torch.no_grad():
            bars: list[Tensor | None] = ctx.pull(list(cotangents))
        if torch.is_grad_enabled() and ctx.mark.stage > 0:
            given = [c for c in cotangents if c is not None]
            bars = [
                None if x is None else _refuse(x, ctx.mark.name, *given, *ctx.saved_tensors) for x in bars
            ]
        return (None, None, None, *bars)


class _Refusal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, *depends: Tensor) -> Tensor:
        ctx.name = name
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        raise second_derivative_of_loop(ctx.name)


_apply: Callable[..., tuple[Tensor, ...]] = getattr(_Gate, "apply")  # noqa: B009  (torch does not type it)
_refuse: Callable[..., Tensor] = getattr(_Refusal, "apply")  # noqa: B009
