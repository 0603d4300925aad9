"""Backpropagation through the last steps only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from metafunc import errors, tree
from metafunc.curvature import Curvature, Exact
from metafunc.dependence import dependencies, require_reach
from metafunc.estimator import Estimator
from metafunc.inner import Args, Inner
from metafunc.path import Path, cotangent_of_phi, path_of
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
        if isinstance(self.depth, bool) or not isinstance(self.depth, int) or self.depth < 0:
            raise errors.out_of_range("depth", self.depth, "an integer of at least 0", "e.g. depth=2")

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
        *before, final = self.path.last(args, self.depth)
        return (final[0], tree.stack(before)) if before else (final[0],)

    def pullback(self, args: Args, out: tuple[Tree, ...], cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        v_phi, v_states = cotangent[0], cotangent[1] if self.depth else None
        v, bar = cotangent_of_phi(v_phi, self._template(args, out)), None
        for i in reversed(range(self.depth)):
            v, more = self.path.pull_step(tree.index(out[1], i), args, v, needs)
            bar = more if bar is None else tree.merge(more, bar)
            if v_states is not None:
                v = tree.merge(v, tree.index(v_states, i))
        start = self.path.pull_first(args, v, needs)
        if bar is None:
            reached = dependencies(self.path.first, args)
            require_reach(
                self.label, "use Truncated(1) or deeper, or Explicit", self._solve, reached, args, needs
            )
            return start, {}
        return tree.merge(start, bar), {}

    def pushforward(self, args: Args, out: tuple[Tree, ...], tangent: Tree) -> tuple[Tree, ...]:
        t, moved = self.path.push_first(args, tangent), []
        for i in range(self.depth):
            moved.append(t)
            t = self.path.push_step(tree.index(out[1], i), args, t, tangent)
        return (t[0], tree.stack(moved)) if moved else (t[0],)

    def _template(self, args: Args, out: tuple[Tree, ...]) -> tuple[Tree, ...]:
        return tree.index(out[1], -1) if self.depth else self.path.first(args)

    def _solve(self, args: Args) -> Tree:
        return self.path.step(self.path.first(args), args)
