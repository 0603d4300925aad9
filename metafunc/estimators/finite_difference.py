"""Differences between perturbed solutions (FO-B-MAML)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from metafunc import errors, options, tree
from metafunc.autodiff import jvp, vjp, vmap
from metafunc.dependence import Watch, require_reach
from metafunc.estimator import Estimator
from metafunc.generators import refusing_draws
from metafunc.inner import (
    Args,
    Bound,
    Inner,
    Objective,
    minimize,
    plain_gradient,
    relative,
    solve_with,
    stationarity,
)
from metafunc.path import Path, State
from metafunc.rule import Handle, Rule, Stats, call
from metafunc.tree import Tree


@dataclass(frozen=True, slots=True, repr=False)
class FiniteDifference(Estimator):
    """The derivative of the perturbed solution along one direction, by differences: FO-B-MAML.

    Maths: let ``phi_nu`` minimise ``g(phi, theta) + nu <v, phi>`` for the cotangent ``v``. Then
    ``theta_bar = d/dnu grad_theta g(phi_nu, theta)`` at ``nu = 0``; for the proximal objective this is
    ``-prox d phi_nu / d nu``. The derivative in ``nu`` is a finite difference of order ``n``, or forward-mode
    differentiation of the perturbed solve (``"tangent"``), which needs no memory for the path.

    Source: fo-b-maml (9)-(11), (16), Algorithm 1. Differs in: the outer loss enters (9) linearised at ``phi_0``, which
    leaves the derivative as it is and makes it exact for quadratics; the perturbed solve starts from ``phi_0``; and
    ``recenter``.

    Exact when: never; the bias goes to zero with ``nu`` and the inner accuracy.

    Bias: ``O(nu^n)`` from the difference, plus what is missing of the perturbed solve. Without ``recenter`` also up to
    ``delta/nu`` for an inner solution of accuracy ``delta``, hence ``O(delta^(n/(n+1)))`` at the best ``nu``.

    Cost: ``n`` perturbed solves of ``steps`` gradients and one more each, as one ``vmap``, and two for the stats; no
    second derivatives. ``"tangent"``: ``steps`` Hessian-vector products. Memory: the activations of ``n`` gradients,
    however many steps.

    Attributes:
        nu: The size of the perturbation, the displacement ``nu v`` of the gradient. Default ``None``: the ``nu`` that
            balances ``nu^n`` against ``delta/nu``, ``nu ||v|| = delta^(1/(n+1)) (1 + ||phi||)``, where ``delta`` is
            the dtype's rounding unit or, without ``recenter``, the inner accuracy if that is worse.
        scheme: ``"forward"``, ``"symmetric"`` or ``"tangent"``.
        order: ``n``, the order of the difference: 1 (default) or more for ``"forward"``, 2 (default) or more and even
            for ``"symmetric"``.
        steps: The steps of a perturbed solve. Default: those of the inner solver.
        recenter: Subtract the gradient left over at ``phi_0`` in the perturbed problem. Then ``phi_0`` is the exact
            solution for ``nu = 0``, and the inner error is not divided by ``nu``. ``False`` is the paper's algorithm.

    ``stats["linear_residual"]`` is what is left over of the perturbed problem, relative to the perturbation: as for
    ``Implicit``, the relative residual of ``H d phi_nu / d nu = -v``. A solver that starts with long steps whatever the
    gradient's size (Adam) needs many of them to come back from there.

    Raises:
        ValueError: If an attribute is out of range.
        TypeError: Around a solver that cannot minimise another objective than its own, such as a decorated function.
        ZeroGradientError: As for ``Implicit``.
    """

    nu: float | None = None
    scheme: Literal["forward", "symmetric", "tangent"] = "symmetric"
    order: int | None = None
    steps: int | None = None
    recenter: bool = True

    def __post_init__(self) -> None:
        options.positive("nu", self.nu, 1e-3, optional=True)
        options.choice("scheme", self.scheme, "forward", "symmetric", "tangent")
        options.integer("order", self.order, 2, optional=True)
        options.integer("steps", self.steps, 10, optional=True)
        options.boolean("recenter", self.recenter)
        if self.scheme == "tangent" and (self.order, self.nu) != (None, None):
            raise errors.out_of_range(
                "order, nu", (self.order, self.nu), "neither", '"tangent" takes no difference'
            )
        if self.scheme == "symmetric" and self.order is not None and self.order % 2:
            raise errors.out_of_range("order", self.order, "a positive even integer", "or leave it out")

    def rule(self, inner: Inner) -> Rule:
        """See :class:`FiniteDifference`."""
        if inner.objective is None or (inner.step is None and inner.minimize is None):
            raise errors.needs_gradient_steps("FiniteDifference", inner.name)
        if inner.step is None and self.scheme == "tangent":
            raise errors.needs_path("FiniteDifference('tangent')", inner.name)
        if inner.free:
            raise errors.no_implicit_gradient(repr(self), inner.name)
        return Perturbed(inner, inner.objective, self)


@dataclass(frozen=True, slots=True)
class Perturbed(Rule):
    """Outcome: ``phi`` alone."""

    inner: Inner
    objective: Objective
    options: FiniteDifference

    @property
    def name(self) -> str:
        return repr(self.options)

    @property
    def exact(self) -> bool:
        return False

    @property
    def batchable(self) -> bool:
        return self.inner.batchable

    def forward(self, args: Args) -> tuple[Tree, ...]:
        return (solve_with(self.inner, args),)

    def pullback(self, args: Args, out: tuple[Tree, ...], cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        (phi,), (v,) = out, cotangent
        with refusing_draws(args, lambda: errors.drawing_objective(self.name)):
            left = plain_gradient(self.objective)(phi, args)
        shift = left if self.options.recenter else tree.zeros_like(left)
        watch = Watch(args)
        if self.options.scheme == "tangent":
            bar, missing = self._tangent(args, phi, v, shift, watch, needs)
            stats: Stats = {}
        else:
            bar, missing, nu = self._difference(args, phi, v, shift, watch, needs, tree.norm(left))
            stats = {"nu": nu}
        advice = "use Explicit or Truncated, which differentiate the path"
        require_reach("FiniteDifference", advice, self.inner.inputs, watch.touched, args, needs)
        return bar, stats | {
            "stationarity": stationarity(self.inner, left, args),
            "linear_residual": relative(missing, tree.norm(v)),
        }

    def _difference(
        self, args: Args, phi: Tree, v: Tree, shift: Tree, watch: Watch, needs: Tree, left: Tensor
    ) -> tuple[Tree, Tensor, Tensor]:
        offsets, weights = stencil(self.options.scheme, self.options.order)
        nu = self._nu(phi, v, left, len(offsets) if 0 not in offsets else len(offsets) - 1)
        points = _numbers([s for s in offsets if s], left)

        def at_point(s: Tensor, a: Args) -> tuple[Tree, Tensor]:
            moved = self._solve(a, phi, v, shift, s * nu)
            here, there = self._slopes(moved, a, watch, needs)
            missing = tree.map(lambda g, u, o: g + s * nu * u - o, here, v, shift)
            return there, tree.norm(missing) / (s * nu).abs()

        slopes, missing = vmap(at_point, in_dims=(0, tree.axes(args)))(points, tree.repeat(args, len(points)))
        around = _numbers([w for s, w in zip(offsets, weights, strict=True) if s], left)
        total = tree.map(lambda x: None if x is None else torch.tensordot(around.to(x.dtype), x, 1), slopes)
        if 0 in offsets:
            centre, (_, there) = float(weights[offsets.index(0)]), self._slopes(phi, args, watch, needs)
            total = tree.map(lambda t, x: None if t is None else t + centre * x, total, there)
        return tree.map(lambda x: None if x is None else x / nu, total), missing.max(), nu

    def _slopes(self, phi: Tree, args: Args, watch: Watch, needs: Tree) -> tuple[Tree, Tree]:
        """The gradients of the objective in ``phi`` and in the arguments."""
        every = tree.map(tree.is_float, phi)
        value, pull = vjp(lambda p, a: self.objective(p, watch(a)), phi, args, needs=(every, needs))
        here, there = pull(torch.ones_like(value))
        return here, there

    def _solve(self, args: Args, phi: Tree, v: Tree, shift: Tree, nu: Tensor) -> Tree:
        if self.inner.step is None:
            return call(Handle(_Tilted(self.inner, self.objective)), (args, phi, v, shift, nu))[0]
        state = self.inner.begin(phi)
        for _ in range(self.options.steps or self.inner.steps):
            state = self._step(args, v, shift, state, nu)
        return state[0]

    def _step(self, args: Args, v: Tree, shift: Tree, state: State, nu: Tensor) -> State:
        gradient = plain_gradient(self.objective)

        def tilted(phi: Tree, args: Args) -> Tree:
            return tree.map(lambda g, u, s: g + nu * u - s, gradient(phi, args), v, shift)

        # A tolerance would stop a solve that starts this close before it has moved at all.
        return Path(replace(self.inner, tolerance=0.0), tilted).step(state, args)

    def _tangent(
        self, args: Args, phi: Tree, v: Tree, shift: Tree, watch: Watch, needs: Tree
    ) -> tuple[Tree, Tensor]:
        state = self.inner.begin(phi)
        moved, nu = tree.zeros_like(state), torch.zeros_like(tree.leaves(phi)[0].sum())
        for _ in range(self.options.steps or self.inner.steps):
            state, moved = jvp(
                lambda s, n: self._step(args, v, shift, s, n), (state, nu), (moved, torch.ones_like(nu))
            )
        gradient = plain_gradient(self.objective)
        _, pull = vjp(
            lambda p, a: gradient(p, watch(a)), state[0], args, needs=(tree.map(tree.is_float, phi), needs)
        )
        here, bar = pull(moved[0])
        return bar, tree.norm(tree.add(here, v))

    def _nu(self, phi: Tree, v: Tree, left: Tensor, order: int) -> Tensor:
        length = tree.norm(v)
        if self.options.nu is not None:
            return torch.full_like(length, self.options.nu)
        delta = torch.full_like(length, torch.finfo(length.dtype).eps)
        if not self.options.recenter:
            delta = torch.maximum(delta, left / (1 + tree.norm(phi)))
        return delta ** (1 / (order + 1)) * (1 + tree.norm(phi)) / torch.where(length > 0, length, 1.0)


@dataclass(frozen=True, slots=True)
class _Tilted(Rule):
    """The perturbed problem solved by a minimiser without a path: a rule, so that one that cannot be batched runs task
    by task. It is not differentiated."""

    inner: Inner
    objective: Objective

    @property
    def batchable(self) -> bool:
        return self.inner.batchable

    def forward(self, args: Tree) -> tuple[Tree, ...]:
        at, phi, v, shift, nu = args
        tilt = tree.map(lambda u, s: nu * u - s, v, shift)
        tilted = replace(
            self.inner,
            objective=Bound(lambda p, a: self.objective(p, a) + tree.dot(tilt, p), own=True),
            tolerance=0.0,
        )
        return (minimize(tilted, phi, at),)

    def pullback(self, args: Tree, out: Any, cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        raise errors.no_second_derivative("FiniteDifference")


def _numbers(values: Sequence[float], like: Tensor) -> Tensor:
    # `torch.tensor(..., device=...)` would have the host wait for a GPU.
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)


def stencil(scheme: str, order: int | None) -> tuple[list[int], list[float]]:
    """Offsets ``s_j`` and weights ``w_j`` with ``sum_j w_j f(s_j h) / h = f'(0) + O(h^order)``.

    The weights solve ``sum_j w_j s_j^p = [p = 1]`` for the lowest powers ``p``.
    """
    if scheme == "forward":
        offsets = list(range((order or 1) + 1))
    else:
        half = (order or 2) // 2
        offsets = [s for s in range(-half, half + 1) if s]
    powers = np.vander(np.array(offsets, dtype=float), increasing=True).T
    return offsets, list(np.linalg.solve(powers, np.eye(len(offsets))[1]))
