"""A function with a derivative rule of its own, and the one ``autograd.Function`` that torch sees.

A :class:`Rule` is a function of trees together with its pull-back and push-forward. :func:`call` makes torch use
them: under ``torch.func.grad``, ``vjp``, ``jvp``, ``vmap`` and every nesting of them, under eager ``.backward()``,
and under ``torch.compile``. Everything in this package that is not differentiated as torch would do it (an
estimator, a finite-difference curvature, a linear solve) is a rule.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metafunc import autodiff, errors, tree
from metafunc.tree import Skeleton, Tree

Stats = dict[str, Tensor]
"""What a pull-back learned on the way (residual norms, iterations, flags), as tensors."""


Pullback = Callable[[tuple[Tree, ...]], tuple[Tree, Stats]]
"""A pull-back at a point: from a cotangent of the outcome to that of the arguments, with figures."""


class Rule(ABC):
    """A function ``out = forward(args)`` and its derivative.

    Laws, which hold for a rule that is ``exact``: ``pullback`` is the transpose of ``pushforward``, both are the
    derivative of ``forward``, and both may be differentiated again. A biased rule puts another linear map in the
    place of the derivative, and a second derivative through it is refused.

    ``out`` is a tuple of trees of tensors. A pull-back may use ``args`` and ``out`` and nothing else that depends on
    ``args``: torch keeps just these between the passes.
    """

    __slots__ = ()

    @abstractmethod
    def forward(self, args: Tree) -> tuple[Tree, ...]:
        """The outcome, without any graph."""

    @abstractmethod
    def pullback(
        self, args: Tree, out: tuple[Tree, ...], cotangent: tuple[Tree | None, ...], needs: Tree
    ) -> tuple[Tree, Stats]:
        """From the cotangent of ``out`` to that of ``args``.

        Args:
            args: As given to ``forward``.
            out: As returned by ``forward``.
            cotangent: One tree for each of ``out``; ``None`` for one that nothing depends on.
            needs: A tree of booleans like ``args``: the leaves whose cotangent is asked for.

        Returns:
            A tree like ``args``, with ``None`` at leaves that get no cotangent, and the figures met on the way.
        """

    def pushforward(self, args: Tree, out: tuple[Tree, ...], tangent: Tree) -> tuple[Tree, ...]:
        """From a tangent of ``args`` (``None`` where it is zero) to that of ``out``. Raises where there is none."""
        raise errors.no_forward_mode(self.name)

    @property
    def plain(self) -> Callable[[Tree], tuple[Tree, ...]] | None:
        """The function that plain autodiff may differentiate in place of this rule, if the rule only restates that."""
        return None

    @property
    def name(self) -> str:
        """What errors call this rule."""
        return type(self).__name__

    @property
    def exact(self) -> bool:
        """Whether the derivative of the pull-back is the second derivative of ``forward``."""
        return True

    @property
    def linear(self) -> bool:
        """Whether the pull-back is linear in the cotangent; if not, it cannot be summed over a batch."""
        return True

    @property
    def batchable(self) -> bool:
        """Whether ``forward`` may run under ``vmap``; if not, it runs task by task there."""
        return True

    def mapped(self, dims: Tree, size: int, randomness: str) -> Rule:
        """The rule over a batch of ``size``, in which ``dims`` are the batched axes of ``args``."""
        return _Batched(self, dims, size, randomness)


class Handle:
    """A rule as a constant that ``torch.compile`` takes as it is; made before compilation begins."""

    __slots__ = ("rule",)

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


def call(handle: Handle, args: Tree) -> tuple[Tree, ...]:
    """``handle.rule.forward(args)``, differentiated by the rule."""
    if torch.compiler.is_compiling():
        return _call_opaque(handle, args)
    plain = _plain(handle.rule, args)
    return _call(handle, args) if plain is None else plain(args)


def linearize(handle: Handle, args: Tree, needs: Tree) -> tuple[tuple[Tree, ...], Pullback]:
    """The outcome of :func:`call`, and the rule's pull-back at ``args`` with its figures.

    Here, unlike in :func:`call`, a rule that restates plain autodiff may keep the activations of the forward pass.
    """
    plain = _plain(handle.rule, args)
    if plain is not None:
        out, pull = autodiff.vjp(plain, args, needs=(needs,))
        return out, lambda cotangent: (pull(cotangent)[0], {})
    out = call(handle, args)
    return out, lambda cotangent: pullback(handle.rule, args, out, cotangent, needs)


def _plain(rule: Rule, args: Tree) -> Callable[[Tree], tuple[Tree, ...]] | None:
    return rule.plain if rule.plain is not None and autodiff.plain_is_right(args) else None


def _call(handle: Handle, args: Tree) -> tuple[Tree, ...]:
    tensors, skeleton = tree.take_tensors(args)
    box: list[Skeleton] = []
    flat: tuple[Tensor, ...] = _apply(_Call(handle.rule, skeleton, box), *tensors)
    return box[0].fill(flat)


# Left to itself, torch.compile reads the *forward* of an autograd.Function under torch.func.grad and drops its
# backward without a word (torch 2.13), so it must not look inside.
_call_opaque: Callable[[Handle, Tree], tuple[Tree, ...]] = autodiff.opaque_to_compiler(_call, Handle)


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of a rule in terms of flat tensors, as ``autograd.Function`` wants them."""

    rule: Rule
    args: Skeleton
    box: list[Skeleton]  # the nesting of the outcome, known once forward has run

    def forward(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        flat, skeleton = tree.take_tensors(self.rule.forward(self.args.fill(tensors)))
        self.box[:] = [skeleton]
        given = {id(x) for x in tensors}
        return tuple(x.view_as(x) if id(x) in given else x for x in flat)

    def pullback(
        self,
        tensors: tuple[Tensor, ...],
        flat: tuple[Tensor, ...],
        cotangents: tuple[Any, ...],
        needs: list[bool],
    ) -> tuple[Tensor | None, ...]:
        self._refuse_complex(tensors, needs)
        out, given = self.box[0].fill(flat), self.box[0].fill(cotangents)
        cotangent = tuple(_materialize(c, o) for c, o in zip(given, out, strict=True))
        want = self.args.fill_only(needs, other=False)
        bar, _ = pullback(self.rule, self.args.fill(tensors), out, cotangent, want)
        return tuple(self.args.pick(bar))

    def pushforward(
        self, tensors: tuple[Tensor, ...], flat: tuple[Tensor, ...], tangents: tuple[Any, ...]
    ) -> tuple[Tensor | None, ...]:
        self._refuse_complex(tensors, [t is not None for t in tangents])
        args, out = self.args.fill(tensors), self.box[0].fill(flat)
        dot = pushforward(self.rule, args, out, self.args.fill_only(tangents))
        return tuple(
            t if x.is_floating_point() else None for t, x in zip(self.box[0].pick(dot), flat, strict=True)
        )

    def _refuse_complex(self, tensors: tuple[Tensor, ...], needs: list[bool]) -> None:
        """The derivatives are those of real functions, in real tensors."""
        if any(x.is_complex() and want for x, want in zip(tensors, needs, strict=True)):
            raise errors.complex_leaf(self.rule.name)


def pullback(
    rule: Rule, args: Tree, out: tuple[Tree, ...], cotangent: tuple[Tree | None, ...], needs: Tree
) -> tuple[Tree, Stats]:
    """The rule's pull-back, closed to further differentiation where that would be wrong."""
    if not rule.exact and autodiff.has_tangent((args, out)):
        raise errors.no_second_derivative(rule.name)  # before some operator fails for want of a forward mode
    bar, stats = rule.pullback(args, out, cotangent, needs)
    return bar if rule.exact else _refuse_derivative(rule.name, bar, (args, out)), stats


def pushforward(rule: Rule, args: Tree, out: tuple[Tree, ...], tangent: Tree) -> tuple[Tree, ...]:
    """The rule's push-forward, closed to further differentiation where that would be wrong."""
    dot = rule.pushforward(args, out, tangent)
    return dot if rule.exact else _refuse_derivative(rule.name, dot, (args, out))


def _materialize(cotangent: Tree, out: Tree) -> Tree | None:
    """``None`` if no leaf has a cotangent, else the cotangent with zeros where it has none."""
    given = tree.leaves(cotangent)
    if all(c is None for c in given):
        return None
    like = tree.leaves(out)
    full = [
        torch.zeros_like(x) if c is None and isinstance(x, Tensor) else c
        for c, x in zip(given, like, strict=True)
    ]
    return tree.rebuild(tree.structure(out), full)


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(step: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        return step.forward(tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        step, *tensors = inputs
        ctx.step, ctx.count = step, len(tensors)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *output)
        ctx.save_for_forward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = autodiff.without_dead_levels(ctx.saved_tensors)
        tensors, flat = saved[: ctx.count], saved[ctx.count :]
        if all(c is None for c in cotangents):
            return (None,) * (1 + ctx.count)
        return None, *ctx.step.pullback(tensors, flat, cotangents, list(ctx.needs_input_grad[1:]))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        with autodiff.forward_mode_enabled():
            saved = autodiff.without_tangents(autodiff.without_dead_levels(ctx.saved_tensors))
            return ctx.step.pushforward(saved[: ctx.count], saved[ctx.count :], tangents[1:])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], Any]:
        step, *tensors = inputs
        dims = tuple(in_dims[1:])
        batched = step.rule.mapped(step.args.fill_only(dims), info.batch_size, info.randomness)
        flat: tuple[Tensor, ...] = _apply(_Call(batched, step.args, step.box), *tensors)
        return flat, (0,) * len(flat)


_apply: Callable[..., tuple[Tensor, ...]] = getattr(_Apply, "apply")  # noqa: B009  (torch does not type it)


@dataclass(frozen=True, slots=True)
class _Batched(Rule):
    """A rule over a batch is a rule: ``vmap`` of its parts, or a loop where the forward part cannot be batched."""

    rule: Rule
    dims: Tree
    size: int
    randomness: str

    @property
    def name(self) -> str:
        return self.rule.name

    @property
    def exact(self) -> bool:
        return self.rule.exact

    @property
    def linear(self) -> bool:
        return self.rule.linear

    @property
    def batchable(self) -> bool:
        return self.rule.batchable

    def _map(self, fn: Callable[..., Any], dims: tuple[Any, ...], *args: Tree) -> Any:
        return autodiff.vmap(fn, in_dims=dims, randomness=self.randomness)(*args)

    def forward(self, args: Tree) -> tuple[Tree, ...]:
        if self.rule.batchable:
            return self._map(self.rule.forward, (self.dims,), args)
        return tree.stack([self.rule.forward(self._task(args, i)) for i in range(self.size)])

    def _task(self, args: Tree, i: int) -> Tree:
        return tree.map(lambda x, d: x if d is None else x.select(d, i), args, self.dims)

    def pullback(
        self, args: Tree, out: tuple[Tree, ...], cotangent: tuple[Tree | None, ...], needs: Tree
    ) -> tuple[Tree, Stats]:
        reduced = tree.leaves(tree.map(lambda want, dim: bool(want) and dim is None, needs, self.dims))
        if not self.rule.linear and any(reduced):
            raise errors.not_summable(self.rule.name)
        over = tree.axes(cotangent)
        dims = (self.dims, tree.axes(out), over)
        mapped = vmap(lambda a, o, c: self.rule.pullback(a, o, c, needs), dims, self.size, self.randomness)
        bar, stats = mapped(args, out, cotangent)
        return tree.map(_unbatch, bar, self.dims), stats

    def pushforward(self, args: Tree, out: tuple[Tree, ...], tangent: Tree) -> tuple[Tree, ...]:
        over = tree.map(lambda t, d: None if t is None else d, tangent, self.dims)
        dims = (self.dims, tree.axes(out), over)
        return vmap(self.rule.pushforward, dims, self.size, self.randomness)(args, out, tangent)


def _unbatch(bar: Tensor | None, dim: int | None) -> Tensor | None:
    """The cotangent of an input that all tasks share is the sum of theirs."""
    if bar is None:
        return None
    return bar.sum(0) if dim is None else bar.movedim(0, dim)


def vmap(
    fn: Callable[..., Tree], in_dims: tuple[Tree, ...], size: int, randomness: str = "same"
) -> Callable[..., Tree]:
    """``torch.func.vmap``, differentiated inside the map: the derivative of ``vmap(fn)`` is ``vmap`` of that of ``fn``.

    torch differentiates the batched operations instead, and is silently wrong about some of them (see
    :func:`metafunc.autodiff.plain_is_right`).

    Args:
        fn: A function of trees that closes over no tensor that is differentiated; ``None`` may stand among the leaves
            of its outcome.
        in_dims: For every leaf of every argument its mapped axis, or ``None``.
        size: The length of the mapped axes.
        randomness: As for ``torch.func.vmap``.
    """

    def mapped(*args: Tree) -> Tree:
        rule = _Batched(_Restated(fn), in_dims, size, randomness)
        return (call(Handle(rule), args) if autodiff.is_recording(args) else rule.forward(args))[0]

    return mapped


@dataclass(frozen=True, slots=True)
class _Restated(Rule):
    """A function with the derivative that plain autodiff gives it."""

    fn: Callable[..., Tree]

    def forward(self, args: Tree) -> tuple[Tree, ...]:
        return (self.fn(*args),)

    def pullback(self, args: Tree, out: Any, cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        pairs = zip(tree.leaves(out[0]), tree.leaves(cotangent[0]), strict=True)
        _, pull = autodiff.vjp(self._floats, *args, needs=needs)
        return pull([c for x, c in pairs if tree.is_float(x)]), {}

    def pushforward(self, args: Tree, out: Any, tangent: Tree) -> tuple[Tree, ...]:
        dots = iter(autodiff.jvp(self._floats, args, tangent)[1])
        return (tree.map(lambda x: next(dots) if tree.is_float(x) else x, out[0]),)

    def _floats(self, *args: Tree) -> list[Tensor]:
        return [x for x in tree.leaves(self.fn(*args)) if tree.is_float(x)]


@dataclass(frozen=True, slots=True)
class _Refusal(Rule):
    """The first of its two arguments, with no derivative in either."""

    of: str

    def forward(self, args: Tree) -> tuple[Tree, ...]:
        return (args[0],)

    def pullback(self, args: Tree, out: Any, cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        raise errors.no_second_derivative(self.of)

    def pushforward(self, args: Tree, out: Any, tangent: Tree) -> tuple[Tree, ...]:
        raise errors.no_second_derivative(self.of)


def _refuse_derivative(name: str, value: Tree, origin: Tree) -> Tree:
    """``value``, made to depend on ``origin`` in torch's eyes even where it does not, and refusing that derivative."""
    tensors, skeleton = tree.take_tensors(value)
    return skeleton.fill(_call(Handle(_Refusal(name)), (tensors, tree.take_tensors(origin)[0]))[0])
