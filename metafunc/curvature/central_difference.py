"""Second derivatives from differences of gradients (Hessian-free MAML)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from metafunc import errors, options, tree
from metafunc.autodiff import grad, vjp
from metafunc.curvature.curvature import Curvature, Hessian, objective_of
from metafunc.inner import Args, Gradient, Inner, Objective, relative
from metafunc.rule import Handle, Rule, Stats, call
from metafunc.tree import Tree


@dataclass(frozen=True, slots=True, repr=False)
class CentralDifference(Curvature):
    """Products from two gradients, with no second derivative: Hessian-free MAML.

    Maths: ``H w ~ (G(phi + delta w, args) - G(phi - delta w, args)) / (2 delta)``, and the same difference of
    ``grad_args g`` for the mixed products ``C^T w``.

    Source: hf-maml (9), (11), for one inner step; here for any number of steps, for momentum, and inside ``Implicit``.

    Bias: at most ``rho delta ||w||^2 / 2`` for a Hessian with Lipschitz constant ``rho``, zero for a quadratic
    objective, plus rounding of about ``eps ||G|| / delta``. A network with kinks (ReLU, max pooling) has no such
    ``rho``: a difference sees the kinks that it crosses, a derivative none, and the two products differ by as much as
    they are long.

    Cost: two gradients a product, and no memory beyond that of one gradient.

    Attributes:
        delta: The step along ``w`` (absolute: the points are ``phi +- delta w``). In a gradient step ``w`` is ``lr``
            times the cotangent, so that hf-maml's ``delta`` is ``lr`` times this one. Default ``None``: whatever makes
            the length of the displacement, ``delta ||w||``, the one that ``displacement`` asks for.
        displacement: The length of the displacement. Default ``None``: ``eps^(1/3) (1 + ||phi||)``, which balances
            truncation and rounding in the dtype at hand. hf-maml's Theorem 4.17 is
            ``displacement = 1 / (6 rho lr)``, which is enough for its guarantee, and far longer.

    Raises:
        ValueError: If ``delta`` or ``displacement`` is not positive, or both are given.
    """

    delta: float | None = None
    displacement: float | None = None

    def __post_init__(self) -> None:
        options.positive("delta", self.delta, 1e-3, optional=True)
        options.positive("displacement", self.displacement, 1e-3, optional=True)
        if self.delta is not None and self.displacement is not None:
            both = (self.delta, self.displacement)
            raise errors.out_of_range("delta, displacement", both, "one of the two", "leave one out")

    def hessian(self, inner: Inner) -> Hessian:
        """See :class:`CentralDifference`."""
        objective = inner.curved or objective_of(inner)

        def products(phi: Tree, args: Args) -> Callable[[Tree], Tree]:
            return lambda w: self.quotient(lambda p: grad(objective, p, args), phi, w)

        return products

    def gradient(self, inner: Inner) -> Gradient:
        """The gradient map whose derivative is a central difference; its second derivative is refused."""
        handle = Handle(_Differenced(objective_of(inner), inner.curved or objective_of(inner), self))
        return lambda phi, args: call(handle, (phi, args))[0]

    def quotient(self, fn: Callable[[Tree], Tree], x: Tree, w: Tree, near: Tree = None) -> Tree:
        """The difference quotient of ``fn`` at ``x`` along ``w``, where ``None`` stands for zero.

        Args:
            fn: A function of trees; leaves of its outcome that are ``None`` stay so.
            x: Where.
            w: The direction.
            near: The vector whose norm sets the scale of the displacement. Default: ``x``.
        """
        delta = self._step(x if near is None else near, [t for t in tree.leaves(w) if t is not None])
        upper, lower = (
            fn(tree.map(lambda a, t, s=s: a if t is None else a + s * t, x, w)) for s in (delta, -delta)
        )
        return tree.map(lambda a, b: None if a is None else (a - b) * (0.5 / delta), upper, lower)

    def _step(self, near: Tree, w: Tree) -> Any:
        if self.delta is not None:
            return self.delta
        eps = torch.finfo(tree.leaves(near)[0].dtype).eps
        away = self.displacement if self.displacement is not None else eps ** (1 / 3) * (1 + tree.norm(near))
        return relative(away, tree.norm(w))


@dataclass(frozen=True, slots=True)
class _Differenced(Rule):
    objective: Objective
    curved: Objective
    options: CentralDifference

    @property
    def name(self) -> str:
        return "CentralDifference"

    @property
    def exact(self) -> bool:
        return False

    def forward(self, args: Tree) -> tuple[Tree, ...]:
        phi, rest = args
        return (grad(self.objective, phi, rest),)

    def pullback(self, args: Tree, out: Any, cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        phi, rest = args
        if self.curved is self.objective:
            return self._along(self.objective, args, cotangent[0], needs), {}
        none_of_phi, none_of_rest = (tree.map(lambda _: False, x) for x in (phi, rest))
        here = self._along(self.curved, args, cotangent[0], (needs[0], none_of_rest))
        mixed = self._along(self.objective, args, cotangent[0], (none_of_phi, needs[1]))
        return (here[0], mixed[1]), {}

    def _along(self, objective: Objective, args: Tree, w: Tree, needs: Tree) -> Tree:
        """The difference along ``w`` of the objective's gradient in everything that is needed."""

        def slopes(phi: Tree) -> Tree:
            value, pull = vjp(lambda a: objective(*a), (phi, args[1]), needs=(needs,))
            return pull(torch.ones_like(value))[0]

        return self.options.quotient(slopes, args[0], w)

    def pushforward(self, args: Tree, out: Any, tangent: Tree) -> tuple[Tree, ...]:
        if (
            self.curved is self.objective
        ):  # phi and the arguments move together, so one difference serves both
            return (self._slope_along(self.objective, args, tangent),)
        still = [tree.map(lambda _: None, x) for x in args]
        parts = [(self.curved, (tangent[0], still[1])), (self.objective, (still[0], tangent[1]))]
        moving = [p for p in parts if any(t is not None for t in tree.leaves(p[1]))]
        slopes = [self._slope_along(objective, args, along) for objective, along in moving]
        return (slopes[0] if len(slopes) == 1 else tree.add(*slopes),)

    def _slope_along(self, objective: Objective, args: Tree, tangent: Tree) -> Tree:
        return self.options.quotient(lambda a: grad(objective, *a), args, tangent, near=args[0])
