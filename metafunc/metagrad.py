"""Meta-gradients with everything that was learned on the way, for one task or for a batch of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metafunc import errors, tree
from metafunc.autodiff import vjp
from metafunc.estimator import Adapt
from metafunc.inner import scalar
from metafunc.plug import Plug
from metafunc.rule import Stats, vmap
from metafunc.tree import Tree


class MetaGrad(NamedTuple):
    """A meta-gradient and its circumstances.

    Attributes:
        value: The outer loss; its mean over tasks for a batch.
        grad: Its gradient in ``theta``, a tree like ``theta`` with ``None`` at leaves that are not floating.
        phi: The adapted parameters, with a leading axis of tasks for a batch.
        stats: Figures as tensors, one a task for a batch: ``loss``, and what the estimator reports
            (``stationarity``, ``linear_residual``, ``linear_steps``, ``negative_curvature``, ...).
        aux: What the outer function returned beside the loss, or ``None``.
    """

    value: Tensor
    grad: Tree
    phi: Tree
    stats: Stats
    aux: Any = None


class Batching(Plug, ABC):
    """How the tasks of a batch are run; all ways give the same result."""

    __slots__ = ()

    @abstractmethod
    def map(
        self, fn: Callable[..., tuple[Tree, Tree]], theta: Tree, tasks: tuple[Tree, ...], count: int
    ) -> tuple[Tree, Tree]:
        """``fn(theta, *task) -> (summed, stacked)`` over the tasks: the sum of the first, the second stacked."""


@dataclass(frozen=True, slots=True, repr=False)
class Vmap(Batching):
    """All tasks at once (the fastest, with the memory of all), or ``chunk`` tasks at a time.

    Attributes:
        chunk: How many tasks at a time. Default: all.
        randomness: As for ``torch.func.vmap``, for losses that draw random numbers.
    """

    chunk: int | None = None
    randomness: str = "error"

    def __post_init__(self) -> None:
        if self.chunk is not None and (not isinstance(self.chunk, int) or self.chunk < 1):
            raise errors.out_of_range("chunk", self.chunk, "None or a positive integer", "or leave it out")

    def map(
        self, fn: Callable[..., tuple[Tree, Tree]], theta: Tree, tasks: tuple[Tree, ...], count: int
    ) -> tuple[Tree, Tree]:
        """See :class:`Vmap`."""
        total, parts = None, []
        size = self.chunk or count
        for start in range(0, count, size):
            part = tree.index(tasks, slice(start, start + size))
            dims = (tree.map(lambda _: None, theta), *tree.axes(part))
            here = min(size, count - start)
            summed, stacked = vmap(fn, dims, here, self.randomness)(theta, *part)
            summed = tree.map(lambda x: None if x is None else x.sum(0), summed)
            total = summed if total is None else tree.merge(summed, total)
            parts.append(stacked)
        return total, tree.cat(parts)


@dataclass(frozen=True, slots=True, repr=False)
class Loop(Batching):
    """One task after the other: the least memory, and no demands on the model."""

    def map(
        self, fn: Callable[..., tuple[Tree, Tree]], theta: Tree, tasks: tuple[Tree, ...], count: int
    ) -> tuple[Tree, Tree]:
        """See :class:`Loop`."""
        total, parts = None, []
        for i in range(count):
            summed, stacked = fn(theta, *tree.index(tasks, i))
            total = summed if total is None else tree.merge(summed, total)
            parts.append(stacked)
        return total, tree.stack(parts)


def meta_grad(
    outer: Callable[..., Any],
    adapt: Adapt,
    *,
    tasks: Batching | None = None,
    has_aux: bool = False,
    with_theta: bool = False,
) -> Callable[..., MetaGrad]:
    """The meta-gradient of ``outer(adapt(theta, *data), query)`` with value, ``phi`` and stats.

    Args:
        outer: ``outer(phi, query) -> scalar``, the loss on the query set.
        adapt: An inner problem wrapped in an estimator.
        tasks: ``None`` for a single task; ``Vmap()``, ``Vmap(chunk=...)`` or ``Loop()`` for data and query with a
            leading axis of tasks. Then value and gradient are means over the tasks.
        has_aux: Whether ``outer`` returns ``(loss, aux)``.
        with_theta: Whether ``outer`` is ``outer(phi, theta, query)``, for an outer loss that sees ``theta`` itself.

    Returns:
        ``f(theta, *data, query) -> MetaGrad``. Its gradient equals that of ``torch.func.grad`` of the composition.

    Raises:
        TypeError: If ``adapt`` is no wrapped inner problem.
        ValueError: If the outer loss is not a scalar, or the leading axes of a batch differ.

    Example:
        >>> result = mf.meta_grad(loss, adapt, tasks=mf.Vmap())(theta, support, query)
        >>> result.value, result.grad, result.stats["linear_residual"]
    """
    if not isinstance(adapt, Adapt):
        raise errors.not_wrapped("meta_grad", adapt)
    if tasks is not None and not isinstance(tasks, Batching):
        raise errors.not_a("tasks", "None, Vmap(), Vmap(chunk=...) or Loop()", tasks)

    def outer_loss(phi: Tree, theta: Tree, query: Tree) -> tuple[Tensor, Any]:
        out = outer(phi, theta, query) if with_theta else outer(phi, query)
        loss, aux = out if has_aux else (out, None)
        return scalar(lambda: loss, "outer")(), aux

    def one(theta: Tree, data: tuple[Tree, ...], query: Tree) -> MetaGrad:
        phi, pull = adapt.linearize(theta, *data)
        box: list[Any] = []

        def value_of(phi: Tree, theta: Tree) -> Tensor:
            loss, aux = outer_loss(phi, theta, query)
            box[:] = [aux]
            return loss

        value, outer_pull = vjp(value_of, phi, theta)
        v, direct = outer_pull(torch.ones_like(value))
        through, _, stats = pull(v)
        grad = tree.merge(direct, through) if with_theta else through
        return MetaGrad(value, grad, phi, {"loss": value, **stats}, box[0])

    def single(theta: Tree, *data_and_query: Tree) -> MetaGrad:
        *data, query = _split(data_and_query)
        return one(theta, tuple(data), query)

    def batch(theta: Tree, *data_and_query: Tree) -> MetaGrad:
        assert tasks is not None
        count = _count(_split(data_and_query))

        def each(theta: Tree, *task: Tree) -> tuple[Tree, Tree]:
            *data, query = task
            result = one(theta, tuple(data), query)
            return (result.value, result.grad), (result.phi, result.stats, result.aux)

        total, (phi, stats, aux) = tasks.map(each, theta, data_and_query, count)
        value, grad = tree.map(lambda x: None if x is None else x / count, total)
        return MetaGrad(value, grad, phi, stats, aux)

    return single if tasks is None else batch


def _split(data_and_query: tuple[Tree, ...]) -> tuple[Tree, ...]:
    if not data_and_query:
        raise errors.no_query()
    return data_and_query


def _count(tasks: tuple[Tree, ...]) -> int:
    sizes = {x.shape[0] if x.ndim else None for x in tree.leaves(tasks) if isinstance(x, Tensor)}
    if len(sizes) != 1 or None in sizes:
        raise errors.uneven_tasks(sizes)
    return sizes.pop() or 0


def check(result: MetaGrad, *, linear_residual: float = 0.1) -> MetaGrad:
    """Return ``result``, or raise if it should not be used.

    Raising on data inside a transform would break under ``vmap``, so the estimators only take note; this looks at the
    notes.

    Args:
        result: From :func:`meta_grad`.
        linear_residual: The largest relative residual of an implicit estimator's linear solve that is accepted.

    Raises:
        CheckError: If the outer loss or the gradient is not finite, a linear solve broke down, met negative curvature
            or did not converge.
    """
    findings: list[str] = []
    losses = result.stats["loss"]
    if not torch.isfinite(losses).all():
        findings.append(f"the outer loss is not finite ({_how_many(~torch.isfinite(losses))})")
    for path, leaf in zip(tree.paths(result.grad), tree.leaves(result.grad), strict=True):
        if tree.is_float(leaf) and not torch.isfinite(leaf).all():
            findings.append(
                f"the meta-gradient at {path} is not finite: lower the inner lr, or look at the inner loss"
            )
    stats = result.stats
    if "linear_residual" in stats:
        if stats["breakdown"].any():
            findings.append(
                f"the linear solve broke down ({_how_many(stats['breakdown'])}): its products are not finite"
            )
        if stats["negative_curvature"].any():
            findings.append(
                f"the inner objective has negative curvature at phi ({_how_many(stats['negative_curvature'])}): "
                "raise prox, or solver damping"
            )
        loose = ~(stats["linear_residual"] <= linear_residual)
        if loose.any():
            worst = stats["linear_residual"].max().item()
            findings.append(
                f"the linear solve has not converged ({_how_many(loose)}, worst relative residual {worst:.2g}): "
                "raise max_steps, or prox"
            )
    if findings:
        raise errors.unusable(findings)
    return result


def _how_many(flags: Tensor) -> str:
    return f"{int(flags.sum())} of {flags.numel()} tasks"
