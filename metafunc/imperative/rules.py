"""What the estimators make of recorded steps: how many they keep, and how a cotangent passes back over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from metafunc import tree
from metafunc.curvature import Exact
from metafunc.estimator import Estimator
from metafunc.estimators import Binomial, Explicit, FirstOrder, Implicit, Truncated
from metafunc.imperative.errors import implicit_loop_without_dependence, not_imperative
from metafunc.imperative.record import Outside, Step, Vector, merged, only_params, scaled
from metafunc.linear import LinearSolver, Products, as_solver
from metafunc.rule import Stats


class Back(NamedTuple):
    """Cotangents of the parameters that the steps started from, and of what the steps depend on beside them."""

    start: Vector
    outside: Outside


@dataclass(frozen=True, slots=True)
class Rule:
    """How a loop is differentiated.

    Attributes:
        keep: How many last steps are recorded; ``None`` for all.
        pull: From the recorded steps, oldest first, and a cotangent of the outcome; it may add figures.
        bends: Whether a record is of the gradient of the loss, as a function of the parameters.
        moves: Whether a record is of the update, as a function of the gradient (if that is recorded) and of the state.
    """

    keep: int | None
    pull: Callable[[tuple[Step, ...], Vector, Stats], Back]
    bends: bool = True
    moves: bool = True


def rule_of(estimator: Estimator) -> Rule | None:
    """The rule for an imperative loop; ``None`` where plain autograd is that rule.

    Raises:
        TypeError: For an estimator, or an option of one, that an imperative loop cannot serve.
    """
    curvature: Any = getattr(estimator, "curvature", Exact())
    if isinstance(curvature, Exact):
        if isinstance(estimator, Explicit) and estimator.checkpoint is False:
            return None
        if isinstance(estimator, FirstOrder):
            return Rule(None, _moves, bends=False)
        if isinstance(estimator, Truncated):
            return Rule(estimator.depth, _through) if estimator.depth else _IDENTITY
        if isinstance(estimator, Binomial):
            return Rule(estimator.window, _expansion(estimator)) if estimator.order else _IDENTITY
        if isinstance(estimator, Implicit) and estimator.root is None:
            return Rule(1, _solution(as_solver(estimator.solver), repr(estimator)), moves=False)
    raise not_imperative(estimator)


def _through(steps: tuple[Step, ...], v: Vector, stats: Stats) -> Back:
    """All kept steps, one after the other; what came before them is the identity."""
    outside: Outside = {}
    for step in reversed(steps):
        v, more = step.pull(v)
        outside = merged(outside, more)
    return Back(only_params(v), outside)


def _moves(steps: tuple[Step, ...], v: Vector, stats: Stats) -> Back:
    """The identity in the parameters, and what the updates themselves depend on, given the gradients."""
    outside: Outside = {}
    for step in reversed(steps):
        back, more = step.pull(v)
        v, outside = only_params(v) | back, merged(outside, more)
    return Back(only_params(v), outside)


_IDENTITY = Rule(0, _through, bends=False, moves=False)


def _expansion(estimator: Binomial) -> Callable[[tuple[Step, ...], Vector, Stats], Back]:
    def pull(steps: tuple[Step, ...], v: Vector, stats: Stats) -> Back:
        # tail[m]: the chains of so many factors over the steps m, m+1, ..., applied to v; see estimators/binomial.py.
        window, outside = len(steps), Outside()
        order = min(estimator.order, window)
        factor = estimator.order / window if estimator.rescale and window else 1.0
        tail = [v] * (window + 1)
        for length in range(1, order + 1):
            total, fresh = tail[window - length + 1], dict[int, Vector]()
            for m in range(window - length, order - length - 1, -1):
                back, more = steps[m].pull(tail[m + 1])
                total = merged(total, scaled(factor, merged(back, scaled(-1.0, tail[m + 1]))))
                fresh[m] = total
                # A term through the outside takes the chains of order - 1 factors, known earlier for the last steps.
                if length == order or m == window - length:
                    outside = merged(outside, scaled(factor, more))
            for m, found in fresh.items():
                tail[m] = found
        return Back(only_params(tail[0]), outside)

    return pull


def _solution(solver: LinearSolver, name: str) -> Callable[[tuple[Step, ...], Vector, Stats], Back]:
    def pull(steps: tuple[Step, ...], v: Vector, stats: Stats) -> Back:
        (slope,) = steps
        at = slope.before
        if not slope.outside:
            raise implicit_loop_without_dependence(name)
        # What the loss does not depend on has stayed where it started.
        stayed = {key: bar for key, bar in v.items() if key not in at}
        b, unravel = tree.ravel(merged(tree.zeros_like(at), {key: v[key] for key in at if key in v}))

        def product(w: Tensor) -> Tensor:
            vector: Vector = unravel(w)
            back, _ = slope.pull(vector)
            return tree.ravel(merged(tree.zeros_like(vector), back))[0]

        w, figures = solver.solve(Products(product, unravel, None), b)
        stats.clear()
        stats.update(figures)
        _, more = slope.pull(unravel(w))
        return Back(stayed, scaled(-1.0, more))

    return pull
