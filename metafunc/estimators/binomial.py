"""The truncated binomial expansion of the chain of steps (BinomMAML)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor

from metafunc import errors, options, tree
from metafunc.curvature import Curvature, Exact, check_curvature
from metafunc.dependence import reach_of_init, require_reach
from metafunc.estimator import Estimator
from metafunc.generators import Draws, replaying
from metafunc.inner import Args, Inner
from metafunc.path import Path, State, at_step, cotangent_of_phi, path_of
from metafunc.rule import Rule, Stats, vmap
from metafunc.tree import Tree


@dataclass(frozen=True, slots=True, repr=False)
class Binomial(Estimator):
    """The product of the steps' Jacobians, expanded and cut after ``order`` factors.

    Maths: with step Jacobians ``I + N_k`` the exact product is the sum of all chains ``N_{k_1}^T ... N_{k_l}^T v``
    with ``k_1 < ... < k_l``; the estimate keeps those of ``l <= order`` factors. For gradient descent
    ``N_k = -lr H_k``. A step that depends on ``theta`` is one on the pair ``(phi, theta)``, whose expansion is cut in
    the same way: the term ``(dT_k/dtheta)^T`` counts as one factor.

    Source: binommaml (8), Theorem 3.2, Algorithm 2; (39) for ``window``; appendix C.2 for ``rescale``. Differs in:
    any step map in place of plain gradient descent.

    Exact when: ``order = window = K``. ``order = 0`` is ``FirstOrder``.

    Bias: minus the sum of the chains of more than ``order`` factors; *larger* than first-order's where
    ``K lr ||H||`` is well above 1 and ``order`` is small.

    Cost: ``K`` gradients forward; ``order`` rounds of ``window - order + 1`` independent Hessian-vector products back,
    each round one ``vmap``. Memory: the activations of one round and ``window`` copies of ``phi``.

    Attributes:
        order: ``L``, in ``0..window``.
        window: ``C``, the number of last steps that are expanded; the earlier ones count as the identity. Default: all.
        rescale: Take ``order/window`` of every factor ``N_k``, which keeps the expansion in its range for large
            learning rates at the price of a bias of first order.
        curvature: How the second derivatives of the inner objective are formed.

    Raises:
        ValueError: If ``order`` or ``window`` is out of range.
        TypeError: Around a black-box solver.
        ZeroGradientError: With ``order = 0``, for a gradient to anything but the initialisation.
    """

    order: int
    window: int | None = None
    rescale: bool = False
    curvature: Curvature = Exact()

    def __post_init__(self) -> None:
        options.integer("order", self.order, 2, low=0)
        least = max(1, self.order)
        options.integer("window", self.window, least, low=least, optional=True)
        options.boolean("rescale", self.rescale)
        check_curvature(self.curvature)

    def foresee(self, inner: Inner, reach: Tensor) -> Stats:
        """The error along the eigenvector of the largest eigenvalue, this series' and that of ``FirstOrder``, for a
        Hessian that stays the same: ``|sum_l C(window, l) (-a)^l - (1 - a)^K|`` with ``a = reach``."""
        window, a = self.window or inner.steps, reach
        used = a * (self.order / window if self.rescale else 1.0)
        series = sum(math.comb(window, l) * (-used) ** l for l in range(self.order + 1))
        whole = (1 - a) ** inner.steps
        return {"series_error": (series - whole).abs(), "first_order_error": (1 - whole).abs()}

    def rule(self, inner: Inner) -> Rule:
        """See :class:`Binomial`."""
        path = path_of(inner, self.curvature, "Binomial")
        for option, value in (("order", self.order), ("window", self.window or 0)):
            if value > inner.steps:
                raise errors.longer_than_path(option, value, inner.steps, inner.name)
        window = self.window or inner.steps
        factor = self.order / window if self.rescale else 1.0
        return Expanded(path, self.order, window, factor, repr(self))


Round = Callable[[range, Tree], tuple[Tree, Tree]]
"""From some steps and a cotangent for each to the outcomes of :meth:`Expanded._factor`, stacked."""

Rounds = Callable[[Tree, Args, Draws, Tree], Round]


@dataclass(frozen=True, slots=True)
class Expanded(Rule):
    """Outcome: ``phi_K`` and the states before each of the last ``window`` steps, stacked."""

    path: Path
    order: int
    window: int
    factor: float
    label: str
    unmappable: list[bool] = field(
        default_factory=list[bool]
    )  # has one element once mapping the steps has failed

    @property
    def name(self) -> str:
        return self.label

    @property
    def exact(self) -> bool:
        return self.order == self.window == self.path.inner.steps and self.factor == 1.0

    def forward(self, args: Args) -> tuple[Tree, ...]:
        final, before, tape = self.path.record(args, self._steps())
        return final[0], tree.stack(before), tape

    def pullback(self, args: Args, out: tuple[Tree, ...], cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        if not self.order:
            reached = reach_of_init(self.path.inner.init, args)
            require_reach(
                self.label, "use Binomial(1) or higher, or Explicit", self._solve, reached, args, needs
            )
        if not out[2] and not self.unmappable:
            try:
                return self._expand(self._mapped_round, args, out, cotangent, needs), {}
            except Exception:  # whatever it is: if mapping is not to blame, it is raised again
                bar = self._expand(self._looped_round, args, out, cotangent, needs)
                self.unmappable.append(True)
                return bar, {}
        with replaying(out[2], args):
            return self._expand(self._looped_round, args, out, cotangent, needs), {}

    def _expand(self, rounds: Rounds, args: Args, out: tuple[Tree, ...], cotangent: Any, needs: Tree) -> Tree:
        # E(l, m): the chains of at most l factors over the steps m, m+1, ... of the window, applied to v. Round l makes
        # E(l, m) for m in [order - l, window - l] from E(l-1, m+1). At the highest m it is the full product.
        (_, states, tape), (v_phi, v_states, _) = out, cotangent
        v, width, bar = cotangent_of_phi(v_phi, tree.index(states, -1)), self.window - self.order + 1, None
        expanded = tree.map(lambda x: x.expand(width, *x.shape), v)
        round_of = rounds(states, args, tape, needs)
        for l in range(1, self.order + 1):
            here = range(self.order - l, self.window - l + 1)
            factors, more = round_of(here, expanded)
            # A term through the arguments takes E(order - 1, m + 1), known earlier for the highest m only.
            share = tree.map(_summed, more) if l == self.order else tree.index(more, -1)
            bar = share if bar is None else tree.merge(share, bar)
            expanded = tree.map(lambda e, n: e[-1] + _sums_from(n), expanded, factors)
            if v_states is not None:  # met by an exact expansion only, whose rounds are single steps
                expanded = tree.add(expanded, tree.index(v_states, slice(here.start, here.stop)))
        start = self.path.pull_first(at_step(args, tape, -1), tree.index(expanded, 0), needs)
        return start if bar is None else tree.merge(start, bar)

    def _mapped_round(self, states: Tree, args: Args, tape: Draws, needs: Tree) -> Round:
        """All steps of a round as one ``vmap``."""
        everywhere = tree.repeat(args, self.window - self.order + 1)

        def factors(here: range, u: Tree) -> tuple[Tree, Tree]:
            dims = (tree.axes(u), tree.axes(args), tree.axes(u))
            each = vmap(
                lambda s, a, u: self._factor(self.path.linearize_step(s, a, needs), u), dims, len(here)
            )
            return each(tree.index(states, slice(here.start, here.stop)), everywhere, u)

        return factors

    def _looped_round(self, states: Tree, args: Args, tape: Draws, needs: Tree) -> Round:
        """One step after the other, for models that cannot be mapped and steps that draw; each is linearised once."""
        first = self._steps()[0]

        @cache
        def pull(i: int) -> Callable[[State], tuple[State, Tree]]:
            return self.path.linearize_step(tree.index(states, i), at_step(args, tape, first + i), needs)

        def factors(here: range, u: Tree) -> tuple[Tree, Tree]:
            return tree.stack([self._factor(pull(i), tree.index(u, j)) for j, i in enumerate(here)])

        return factors

    def _factor(self, pull: Callable[[State], tuple[State, Tree]], u: Tree) -> tuple[Tree, Tree]:
        """``N_k^T u``: its part for the state, and its part for the arguments."""
        back, bar = pull(u)
        return tree.scale(self.factor, tree.sub(back, u)), tree.map(self._scaled, bar)

    def _scaled(self, x: Tensor | None) -> Tensor | None:
        return None if x is None else self.factor * x

    def pushforward(self, args: Args, out: tuple[Tree, ...], tangent: Tree) -> tuple[Tree, ...]:
        # by_length[l]: the chains of exactly l factors over the steps so far.
        _, states, tape = out
        with replaying(tape, args):
            first = self.path.push_first(at_step(args, tape, -1), tangent)
            by_length = [first, *(tree.zeros_like(first) for _ in range(self.order))]
            still, moved = tree.map(lambda _: None, tangent), []
            for i, k in enumerate(self._steps()):
                moved.append(_total(by_length))
                state, at = tree.index(states, i), at_step(args, tape, k)
                for l in range(self.order, 0, -1):
                    t = by_length[l - 1]
                    ahead = self.path.push_step(state, at, t, tangent if l == 1 else still)
                    by_length[l] = tree.add(by_length[l], tree.scale(self.factor, tree.sub(ahead, t)))
        return _total(by_length)[0], tree.stack(moved), tape

    def _steps(self) -> range:
        return range(self.path.inner.steps - self.window, self.path.inner.steps)

    def _solve(self, args: Args) -> Tree:
        return self.path.step(self.path.first(args), args)


def _sums_from(terms: Tensor) -> Tensor:
    """``sums[m] = terms[m] + terms[m+1] + ...`` along the first axis."""
    return terms.flip(0).cumsum(0).flip(0)


def _summed(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.sum(0)


def _total(trees: list[Tree]) -> Tree:
    return tree.map(lambda *xs: sum(xs[1:], xs[0]), *trees)
