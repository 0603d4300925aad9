"""Fast parameters that look to autograd like the outcome of one operation, whose backward is an estimator's."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from metafunc.imperative.errors import out_of_reach, second_derivative_of_loop

Pull = Callable[[list[Tensor | None]], list[Tensor | None]]
"""From the cotangents of what a gate gives out to those of what it depends on."""

Node: TypeAlias = Any
"""A node of autograd's graph; torch types it only in part."""


@dataclass(slots=True, eq=False)
class Switch:
    """What the gates of one loop have in common: whether they let cotangents pass."""

    closed: bool = False


@contextmanager
def closed(switches: Iterable[Switch]) -> Generator[None, None, None]:
    """No cotangent passes the gates of these loops meanwhile.

    While a single step is differentiated, what would flow further back is the business of the gates themselves.
    """
    before = [(switch, switch.closed) for switch in switches]
    try:
        for switch, _ in before:
            switch.closed = True
        yield
    finally:
        for switch, was in before:
            switch.closed = was


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """What is known of a gate: the estimator, the number of steps before it, and how many of its inputs are those
    that its loop started from. ``estimates`` is false where it passes cotangents on as they are."""

    name: str
    starts: int
    switch: Switch
    stage: int = 0
    estimates: bool = True

    def following(self) -> Mark:
        """The mark after one more step."""
        return Mark(self.name, self.starts, self.switch, self.stage + 1, self.estimates)


def mark_of(node: Node) -> Mark | None:
    """The mark of a gate; ``None`` for any other node."""
    mark = getattr(node, "mark", None)
    return mark if isinstance(mark, Mark) else None


def output_of(node: Node, i: int) -> Tensor:
    """What a gate gives out, as a part of the graph."""
    alive = node.outputs[i]()
    return node.saved_tensors[i] if alive is None else alive


def gate(values: list[Tensor], inputs: list[Tensor], mark: Mark, pull: Pull) -> list[Tensor]:
    """``values`` as functions of ``inputs`` with the derivative ``pull``; a second derivative is refused.

    An input that feeds the loop and that ``pull`` has no cotangent for must get one from elsewhere: if it does not,
    but is asked for its gradient, the backward raises a :class:`~metafunc.ZeroGradientError`.
    """
    return list(_apply([x.detach() for x in values], mark, pull, *inputs))


def marked(values: Sequence[Tensor]) -> list[Tensor]:
    """The same tensors, by which other loops know that they are fast parameters; plain autograd passes them."""
    moving = [x for x in values if x.requires_grad]
    passed = iter(
        _pass(Mark("Explicit()", len(moving), Switch(), estimates=False), *moving) if moving else ()
    )
    return [next(passed) if x.requires_grad else x for x in values]


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: list[Tensor], mark: Mark, pull: Pull, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.mark, ctx.pull, ctx.inputs = mark, pull, inputs
        ctx.set_materialize_grads(False)
        _remember(ctx, values)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        mark, inputs = ctx.mark, ctx.inputs
        nothing = (None,) * (3 + len(inputs))
        if mark.switch.closed:
            return nothing
        given = [c for c in cotangents if c is not None]
        if not given:
            return nothing
        with torch.no_grad():
            bars: list[Tensor | None] = ctx.pull(list(cotangents))
        beside = list(zip(inputs, bars, strict=True))[mark.starts :]
        _require([x for x, bar in beside if bar is None], mark.name)
        if torch.is_grad_enabled() and mark.stage > 0:
            bars = [None if x is None else _refuse(x, mark.name, *given, *inputs) for x in bars]
        return (None, None, None, *bars)


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mark: Mark, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.mark = mark
        ctx.set_materialize_grads(False)
        outputs = tuple(x.detach() for x in values)
        _remember(ctx, outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *((None,) * len(cotangents) if ctx.mark.switch.closed else cotangents)


def _remember(ctx: Any, outputs: Sequence[Tensor]) -> None:
    """Let a node tell what it has given out, even if nobody has it any more."""
    ctx.outputs = [weakref.ref(x) for x in outputs]
    ctx.save_for_backward(*outputs)


class _Refusal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, *depends: Tensor) -> Tensor:
        ctx.name = name
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        raise second_derivative_of_loop(ctx.name)


def _require(tensors: Iterable[Tensor], name: str) -> None:
    """Raise, later in this backward, if a leaf of these is asked for its gradient and gets none from anywhere."""
    pending: list[Node] = [get_gradient_edge(x).node for x in tensors]
    seen: set[Node] = {None}
    while pending:
        node = pending.pop()
        if node not in seen:
            seen.add(node)
            pending += [following for following, _ in node.next_functions]
            if isinstance(node, AccumulateGrad):
                _require_gradient(node.variable, name)


def _require_gradient(leaf: Any, name: str) -> None:
    value, task = leaf.detach(), _graph_task()

    def check(total: Tensor | None) -> None:
        hook.remove()
        if total is None and task == _graph_task():  # else it is left from a backward that has failed
            raise out_of_reach(name, value)

    hook = leaf.register_hook(check)
    _engine.queue_callback(hook.remove)  # where nobody asks for its gradient it is not called


_torch: Any = getattr(torch, "_C")  # noqa: B009  (torch does not type it)
_graph_task: Callable[[], int] = _torch._current_graph_task_id
AccumulateGrad: Any = _torch._functions.AccumulateGrad
_engine: Any = getattr(torch.autograd.Variable, "_execution_engine")  # noqa: B009
_apply: Callable[..., tuple[Tensor, ...]] = getattr(_Gate, "apply")  # noqa: B009
_pass: Callable[..., tuple[Tensor, ...]] = getattr(_Pass, "apply")  # noqa: B009
_refuse: Callable[..., Tensor] = getattr(_Refusal, "apply")  # noqa: B009
