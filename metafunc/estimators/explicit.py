"""Exact differentiation through the steps (MAML)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metafunc import errors, options, tree
from metafunc.curvature import Curvature, Exact, check_curvature
from metafunc.estimator import Estimator
from metafunc.generators import replaying
from metafunc.inner import Args, Inner
from metafunc.path import Path, at_step, cotangent_of_phi, path_of
from metafunc.rule import Rule, Stats
from metafunc.tree import Tree


@dataclass(frozen=True, slots=True, repr=False)
class Explicit(Estimator):
    """The exact derivative of the solver's path: unrolling, MAML.

    Maths: for ``phi_{k+1} = T(phi_k, theta)`` the cotangent ``v`` of ``phi_K`` is carried back through every step,
    ``v <- (dT/dphi_k)^T v`` and ``theta_bar += (dT/dtheta)^T v``; for gradient descent the first is
    ``(I - lr H_k) v``.

    Source: binommaml (3)-(4); hf-maml (10)-(11) with ``curvature=CentralDifference()``, here for ``K`` steps.

    Exact when: always, for the derivative of the path.

    Cost: ``K`` gradients forward and ``K`` Hessian-vector products back. Memory: the activations of all ``K`` steps;
    with ``checkpoint=True`` those of one step and ``K`` copies of ``phi``, for another ``K`` gradients; with
    ``checkpoint=n`` those of one step and ``K/n + n`` copies, for another ``2 K`` gradients.

    Attributes:
        checkpoint: ``False`` keeps activations; ``True`` recomputes every step from its stored ``phi_k``; an integer
            ``n`` stores every ``n``-th ``phi_k`` only. (Where ``vmap`` runs inside a derivative, or in forward mode,
            activations are never kept: see :func:`metafunc.autodiff.plain_is_right`.)
        curvature: How the second derivatives of the inner objective are formed.

    Raises:
        ValueError: If ``checkpoint`` is neither a boolean nor a positive integer of at most ``K``.
        TypeError: Around a black-box solver.
    """

    checkpoint: bool | int = False
    curvature: Curvature = Exact()

    def __post_init__(self) -> None:
        if not isinstance(self.checkpoint, bool):
            options.integer("checkpoint", self.checkpoint, True)
        check_curvature(self.curvature)

    def rule(self, inner: Inner) -> Rule:
        """See :class:`Explicit`."""
        path = path_of(inner, self.curvature, "Explicit")
        segment = int(self.checkpoint) or 1
        if segment > inner.steps:
            raise errors.longer_than_path("checkpoint", segment, inner.steps, inner.name)
        return Unrolled(path, segment, keep_activations=self.checkpoint is False, label=repr(self))


@dataclass(frozen=True, slots=True)
class Unrolled(Rule):
    """Outcome: ``phi_K`` and the states at the start of every segment, stacked.

    The states are outcomes with cotangents of their own, not hidden residuals: that is what makes the derivative of
    the pull-back, which passes through them, exact.
    """

    path: Path
    segment: int
    keep_activations: bool
    label: str

    @property
    def name(self) -> str:
        return self.label

    @property
    def plain(self) -> Callable[[Tree], tuple[Tree, ...]] | None:
        return self._unroll if self.keep_activations else None

    def _unroll(self, args: Args) -> tuple[Tree, ...]:
        return (self.path.final(args)[0],)

    def forward(self, args: Args) -> tuple[Tree, ...]:
        state, stored, tape = self.path.record(args, self._starts())
        return state[0], tree.stack(stored), tape

    def pullback(self, args: Args, out: tuple[Tree, ...], cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        _, stored, tape = out
        v_phi, v_stored, _ = cotangent
        bar: Tree = None
        v: Tree = None
        with replaying(tape, args):
            for i, start in reversed(list(enumerate(self._starts()))):
                steps = self._segment(start)
                states = self.path.run(args, tape, tree.index(stored, i), steps)
                for k, state in zip(reversed(steps), reversed(states), strict=True):
                    v = cotangent_of_phi(v_phi, state) if v is None else v
                    v, more = self.path.pull_step(state, at_step(args, tape, k), v, needs)
                    bar = more if bar is None else tree.merge(more, bar)
                if v_stored is not None:
                    v = tree.merge(v, tree.index(v_stored, i))
            return tree.merge(self.path.pull_first(at_step(args, tape, -1), v, needs), bar), {}

    def pushforward(self, args: Args, out: tuple[Tree, ...], tangent: Tree) -> tuple[Tree, ...]:
        _, stored, tape = out
        with replaying(tape, args):
            t, moved = self.path.push_first(at_step(args, tape, -1), tangent), []
            for i, start in enumerate(self._starts()):
                moved.append(t)
                steps = self._segment(start)
                for k, state in zip(
                    steps, self.path.run(args, tape, tree.index(stored, i), steps), strict=True
                ):
                    t = self.path.push_step(state, at_step(args, tape, k), t, tangent)
        return t[0], tree.stack(moved), tape

    def _starts(self) -> range:
        return range(0, self.path.inner.steps, self.segment)

    def _segment(self, start: int) -> range:
        return range(start, min(start + self.segment, self.path.inner.steps))
