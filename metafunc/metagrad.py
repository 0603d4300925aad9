"""Meta-gradients with everything that was learned on the way, for one task or for a batch of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metafunc import errors, options, tree
from metafunc.autodiff import opaque_to_compiler, vjp, without_dead_levels
from metafunc.batching import Batching, count, gathered, is_list_of_tasks
from metafunc.dependence import dependencies
from metafunc.estimator import Adapt
from metafunc.inner import scalar
from metafunc.rule import Stats
from metafunc.spectrum import spectrum
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
        adjoint: The solution of an implicit estimator's linear system, a tree like ``phi``, from which the next solve
            may start (``guess=``); ``None`` for other estimators.
    """

    value: Tensor
    grad: Tree
    phi: Tree
    stats: Stats
    aux: Any = None
    adjoint: Tree = None


def meta_grad(
    outer: Callable[..., Any],
    adapt: Adapt,
    *,
    tasks: Batching | None = None,
    has_aux: bool = False,
    with_theta: bool = False,
    lanczos: int = 0,
) -> Callable[..., MetaGrad]:
    """The meta-gradient of ``outer(adapt(theta, *data), query)`` with value, ``phi`` and stats.

    Args:
        outer: ``outer(phi, query) -> scalar``, the loss on the query set.
        adapt: An inner problem wrapped in an estimator.
        tasks: ``None`` for a single task; ``Vmap()``, ``Vmap(chunk=...)`` or ``Loop()`` for data and query with a
            leading axis of tasks. Then value and gradient are means over the tasks. In the place of data and query they
            take a list of tasks too, each a mapping with the data, usually ``"support"``, and ``"query"``; with
            ``Loop()`` these may differ in size.
        has_aux: Whether ``outer`` returns ``(loss, aux)``.
        with_theta: Whether ``outer`` is ``outer(phi, theta, query)``, for an outer loss that sees ``theta`` itself.
        lanczos: For diagnosis: so many steps of Lanczos' method add ``curvature_min``, ``curvature_max`` and ``reach``
            to the stats (see :func:`metafunc.spectrum.spectrum`), from which :func:`check` tells whether ``prox`` is
            too small and whether ``Binomial`` is outside its range. Default: none.

    Returns:
        ``f(theta, *data, query, guess=None) -> MetaGrad``. Its gradient equals that of ``torch.func.grad`` of the
        composition. ``guess``, for implicit estimators, is where the linear solver starts: the ``adjoint`` of an
        earlier result, which saves steps where the same tasks come back after a small change of ``theta``.

    Raises:
        TypeError: If ``adapt`` is no wrapped inner problem, or a ``guess`` is given to an estimator without a linear
            system.
        ValueError: If the outer loss is not a scalar, or the leading axes of a batch differ.

    Example:
        >>> result = mf.meta_grad(loss, adapt, tasks=mf.Vmap())(theta, support, query)
        >>> result.value, result.grad, result.stats["linear_residual"]
        >>> few, many = {"support": (x, y), "query": (u, v)}, {"support": (X, Y), "query": (U, V)}
        >>> mf.meta_grad(loss, adapt, tasks=mf.Loop())(theta, [few, many]).grad
    """
    if not isinstance(adapt, Adapt):
        raise errors.not_wrapped("meta_grad", adapt)
    options.function("meta_grad", outer, "outer(phi, query) -> scalar")
    options.instance("tasks", tasks, Batching, "Vmap(), Vmap(chunk=...) or Loop()", optional=True)
    options.integer("lanczos", lanczos, 8, low=0)
    options.boolean("has_aux", has_aux)
    options.boolean("with_theta", with_theta)
    if lanczos and adapt.inner.objective is None:
        raise errors.needs_objective("lanczos", adapt.inner.name)

    def outer_loss(phi: Tree, theta: Tree, query: Tree) -> tuple[Tensor, Any]:
        out = outer(phi, theta, query) if with_theta else outer(phi, query)
        loss, aux = out if has_aux else (out, None)
        return scalar(lambda: loss, "outer")(), aux

    aside: set[int] = set()  # leaves of theta that have a direct gradient, and none through the solve
    looked: list[bool] = []

    def check_outer(phi: Tree, theta: Tree, query: Tree) -> None:
        """Once: whether the outer loss depends on what was adapted."""
        if not looked and not torch.compiler.is_compiling():
            if not any(dependencies(lambda p: outer_loss(p, theta, query)[0], phi)):
                raise errors.outer_without_phi()
            looked.append(True)

    def one(theta: Tree, data: tuple[Tree, ...], query: Tree, guess: Tree) -> MetaGrad:
        try:
            return attempt(theta, data, query, guess)
        except errors.ZeroGradientError as error:
            if not with_theta or not error.leaves or aside:
                raise
            phi = adapt(tree.map(lambda x: x.detach() if isinstance(x, Tensor) else x, theta), *data)
            direct = dependencies(lambda t: outer_loss(phi, t, query)[0], theta)
            if not all(i < len(direct) and direct[i] for i in error.leaves):
                raise
            aside.update(error.leaves)
        return attempt(theta, data, query, guess)

    def attempt(theta: Tree, data: tuple[Tree, ...], query: Tree, guess: Tree) -> MetaGrad:
        found = tree.leaves(theta)
        through_solve = [tree.is_float(x) and i not in aside for i, x in enumerate(found)]
        needs = tree.rebuild(tree.structure(theta), through_solve), tree.map(lambda _: False, data)
        phi, pull = adapt.linearize(theta, *data, needs=needs, guess=() if guess is None else guess)
        check_outer(phi, theta, query)
        box: list[Any] = []

        def value_of(phi: Tree, theta: Tree) -> Tensor:
            loss, aux = outer_loss(phi, theta, query)
            box[:] = [aux]
            return loss

        value, outer_pull = vjp(value_of, phi, theta)
        v, direct = outer_pull(torch.ones_like(value))
        through, _, stats = pull(v)
        grad = tree.merge(direct, through) if with_theta else through
        adjoint = stats.pop("adjoint", None)
        if guess is not None and adjoint is None:
            raise errors.no_use_for_guess(repr(adapt.estimator))
        if lanczos:
            stats |= spectrum(adapt.inner, phi, adapt.inner.args(theta, data), lanczos)
            if "reach" in stats:
                stats |= adapt.estimator.foresee(adapt.inner, stats["reach_max"])
        aux = tree.map(_alive, box[0])
        return MetaGrad(value, grad, phi, {"loss": value, **stats}, aux, adjoint)

    def single(theta: Tree, *data_and_query: Tree, guess: Tree = None) -> MetaGrad:
        *data, query = _split(data_and_query)
        return one(theta, tuple(data), query, guess)

    def batch(theta: Tree, *data_and_query: Tree, guess: Tree = None) -> MetaGrad:
        assert tasks is not None
        data_and_query = _listed(_split(data_and_query))
        size = count(data_and_query)

        def each(theta: Tree, guess: Tree, *task: Tree) -> tuple[Tree, Tree]:
            *data, query = task
            result = one(theta, tuple(data), query, guess)
            return (result.value, result.grad), result[2:]

        total, rest = tasks.map(each, theta, (guess, *data_and_query), size)
        value, grad = tree.map(lambda x: None if x is None else x / size, total)
        return MetaGrad(value, grad, *rest)

    plain = single if tasks is None else batch
    held = _Held(plain)

    def found(theta: Tree, *data_and_query: Tree, guess: Tree = None) -> MetaGrad:
        if not torch.compiler.is_compiling():
            return plain(theta, *data_and_query, guess=guess)
        present, *rest = _opaque(held, theta, data_and_query, {} if guess is None else {"guess": guess})
        value, phi, stats, aux, adjoint = rest
        slopes = iter(present)
        grad = tree.map(lambda x: next(slopes) if tree.is_float(x) else None, theta)
        return MetaGrad(value, grad, phi, stats, *(x if tree.leaves(x) else None for x in (aux, adjoint)))

    return found


class _Held:
    """A function as a constant for ``torch.compile``."""

    def __init__(self, fn: Callable[..., MetaGrad]) -> None:
        self.fn = fn

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


def _run(
    held: _Held, theta: Tree, data_and_query: tuple[Tree, ...], options: dict[str, Tree]
) -> tuple[Any, ...]:
    value, grad, phi, stats, aux, adjoint = held.fn(theta, *data_and_query, **options)
    present = [x for x in tree.leaves(grad) if x is not None]
    return present, value, phi, stats, *(() if x is None else x for x in (aux, adjoint))


# There are derivatives within maps in there, which torch.compile does not trace as they are; nor does it take ``None``.
_opaque = opaque_to_compiler(_run, _Held)


def _alive(x: Any) -> Any:
    """What was kept from inside a derivative, without the wrapper that vmap would not see through."""
    return without_dead_levels([x])[0] if isinstance(x, Tensor) else x


def _split(data_and_query: tuple[Tree, ...]) -> tuple[Tree, ...]:
    if not data_and_query:
        raise errors.no_query()
    return data_and_query


def _listed(data_and_query: tuple[Tree, ...]) -> tuple[Tree, ...]:
    """The arguments for all tasks, where they were given as one list of tasks."""
    if len(data_and_query) != 1 or not is_list_of_tasks(data_and_query[0]):
        return data_and_query
    sets = gathered(data_and_query[0])
    query = sets.pop("query")
    return *sets.values(), query
