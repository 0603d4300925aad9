"""Backpropagation through the last steps only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from metafunc import errors, options, tree
from metafunc.curvature import Curvature, Exact, check_curvature
from metafunc.dependence import reach_of_init, require_reach
from metafunc.estimator import Estimator
from metafunc.generators import replaying
from metafunc.inner import Args, Inner
from metafunc.path import Path, at_step, cotangent_of_phi, path_of
from metafunc.rule import Rule, Stats
from metafunc.tree import Tree


@dataclass(frozen=True, slots=True, repr=False)
class Truncated(Estimator):
    """The derivative of the last ``depth`` steps; the earlier ones count as the identity.

    Maths: for gradient descent ``prod_{k=K-L}^{K-1} (I - lr H_k) v``. For general steps all terms through earlier
    steps are dropped, and what is left of the cotangent passes to ``init`` unchanged.

    Source: binommaml (5); Shaban et al. 2019.

    Exact when: ``depth = K``. ``depth = 0`` is ``FirstOrder``.

    Bias: ``-[prod_{k<K-L} (I - lr H_k) - I]`` applied to the estimate, for gradient descent without prox.

    Cost: ``K`` gradients forward, ``depth`` Hessian-vector products and as many gradients back. Memory: the activations
    of one step and ``depth`` copies of ``phi``.

    Attributes:
        depth: ``L``, in ``0..K``.
        curvature: How the second derivatives of the inner objective are formed.

    Raises:
        ValueError: If ``depth`` is out of range.
        TypeError: Around a black-box solver.
        ZeroGradientError: With ``depth = 0``, for a gradient to anything but the initialisation.
    """

    depth: int
    curvature: Curvature = Exact()

    def __post_init__(self) -> None:
        options.integer("depth", self.depth, 2, low=0)
        check_curvature(self.curvature)

    def rule(self, inner: Inner) -> Rule:
        """See :class:`Truncated`."""
        path = path_of(inner, self.curvature, "Truncated")
        if self.depth > inner.steps:
            raise errors.longer_than_path("depth", self.depth, inner.steps, inner.name)
        return LastSteps(path, self.depth, repr(self))


@dataclass(frozen=True, slots=True)
class LastSteps(Rule):
    """Outcome: ``phi_K`` and the states before each of the last ``depth`` steps, stacked."""

    path: Path
    depth: int
    label: str

    @property
    def name(self) -> str:
        return self.label

    @property
    def exact(self) -> bool:
        return self.depth == self.path.inner.steps

    def forward(self, args: Args) -> tuple[Tree, ...]:
        final, before, tape = self.path.record(args, self._steps())
        return (final[0], tree.stack(before), tape) if before else (final[0],)

    def pullback(self, args: Args, out: tuple[Tree, ...], cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        if not self.depth:
            reached = reach_of_init(self.path.inner.init, args)
            require_reach(
                self.label, "use Truncated(1) or deeper, or Explicit", self._solve, reached, args, needs
            )
            return self.path.pull_first(
                args, cotangent_of_phi(cotangent[0], self.path.first(args)), needs
            ), {}
        (_, states, tape), (v_phi, v_states, _) = out, cotangent
        v, bar = cotangent_of_phi(v_phi, tree.index(states, -1)), None
        with replaying(tape, args):
            for i, k in reversed(list(enumerate(self._steps()))):
                v, more = self.path.pull_step(tree.index(states, i), at_step(args, tape, k), v, needs)
                bar = more if bar is None else tree.merge(more, bar)
                if v_states is not None:
                    v = tree.merge(v, tree.index(v_states, i))
            return tree.merge(self.path.pull_first(at_step(args, tape, -1), v, needs), bar), {}

    def pushforward(self, args: Args, out: tuple[Tree, ...], tangent: Tree) -> tuple[Tree, ...]:
        if not self.depth:
            return (self.path.push_first(args, tangent)[0],)
        _, states, tape = out
        with replaying(tape, args):
            t, moved = self.path.push_first(at_step(args, tape, -1), tangent), []
            for i, k in enumerate(self._steps()):
                moved.append(t)
                t = self.path.push_step(tree.index(states, i), at_step(args, tape, k), t, tangent)
        return t[0], tree.stack(moved), tape

    def _steps(self) -> range:
        return range(self.path.inner.steps - self.depth, self.path.inner.steps)

    def _solve(self, args: Args) -> Tree:
        return self.path.step(self.path.first(args), args)
