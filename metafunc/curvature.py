"""Products with second derivatives of the inner objective.

A curvature is a derivative rule for the gradient map ``G(phi, args) = grad_phi g(phi, args)``: its pull-back along
``w`` gives the products ``(H w, C^T w)`` with ``H = d2g/dphi2`` and ``C = d2g/(dphi dargs)``. Steps, residuals and
linear systems are built on that map, so every estimator inherits the curvature without knowing of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from metafunc import errors, tree
from metafunc.autodiff import grad, jvp, vjp
from metafunc.inner import Args, Gradient, Objective
from metafunc.plug import Plug
from metafunc.rule import Handle, Rule, Stats, call
from metafunc.tree import Tree


class Curvature(Plug, ABC):
    """How second derivatives of an objective are formed."""

    __slots__ = ()

    @abstractmethod
    def gradient(self, objective: Objective) -> Gradient:
        """The gradient of ``objective`` in its first argument, differentiable as this curvature says."""


@dataclass(frozen=True, slots=True, repr=False)
class Exact(Curvature):
    """Exact products by automatic differentiation, reverse mode over reverse mode.

    Maths: ``H w = d/dphi <G(phi, args), w>``. The graph of the gradient is built once for one pair ``(phi, args)`` and
    serves all products there, as the steps of a linear solver need them.

    Cost: about two gradients for the first product at a point, less than one for each further product.
    """

    def gradient(self, objective: Objective) -> Gradient:
        """The gradient map with its exact derivatives of every order."""
        handle = Handle(_ExactGradient(objective))
        return lambda phi, args: call(handle, (phi, args))[0]


@dataclass(frozen=True, slots=True)
class _ExactGradient(Rule):
    """Plain autodiff restated as a rule: differentiated twice under an inner ``vmap``, torch 2.13 is silently wrong
    (see :func:`metafunc.autodiff.plain_is_right`); inside a pull-back ``vmap`` is outermost, and right."""

    objective: Objective

    @property
    def plain(self) -> Callable[[Tree], tuple[Tree, ...]]:
        return self.forward

    def forward(self, args: Tree) -> tuple[Tree, ...]:
        phi, rest = args
        return (grad(self.objective, phi, rest),)

    def pullback(self, args: Tree, out: Any, cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        _, pull = vjp(lambda a: self.forward(a)[0], args, needs=(needs,))
        return pull(cotangent[0])[0], {}

    def pushforward(self, args: Tree, out: Any, tangent: Tree) -> tuple[Tree, ...]:
        return (jvp(lambda a: self.forward(a)[0], (args,), (tangent,))[1],)


@dataclass(frozen=True, slots=True, repr=False)
class CentralDifference(Curvature):
    """Products from two gradients, with no second derivative: Hessian-free MAML.

    Maths: ``H w ~ (G(phi + delta w, args) - G(phi - delta w, args)) / (2 delta)``, and the same difference of
    ``grad_args g`` for the mixed products ``C^T w``.

    Source: hf-maml (9), (11), for one inner step; here for any number of steps, for momentum, and inside ``Implicit``.

    Bias: at most ``rho delta ||w||^2 / 2`` for a Hessian with Lipschitz constant ``rho``, zero for a quadratic
    objective, plus rounding of about ``eps ||G|| / delta``.

    Cost: two gradients a product, and no memory beyond that of one gradient.

    Attributes:
        delta: The step along ``w`` (absolute: the points are ``phi +- delta w``). Default ``None``: a displacement of
            length ``eps^(1/3) (1 + ||phi||)``, which balances truncation and rounding in the dtype at hand.

    Raises:
        ValueError: If ``delta`` is not positive.
    """

    delta: float | None = None

    def __post_init__(self) -> None:
        if self.delta is not None and not self.delta > 0:
            raise errors.out_of_range("delta", self.delta, "a positive number or None", "leave it out")

    def gradient(self, objective: Objective) -> Gradient:
        """The gradient map whose derivative is a central difference; its second derivative is refused."""
        handle = Handle(_DifferencedGradient(objective, self.delta))
        return lambda phi, args: call(handle, (phi, args))[0]


@dataclass(frozen=True, slots=True)
class _DifferencedGradient(Rule):
    objective: Objective
    delta: float | None

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
        (phi, rest), w = args, cotangent[0]
        delta = self._step(phi, w)
        upper, lower = (self._slope(tree.add(phi, tree.scale(s, w)), rest, needs) for s in (delta, -delta))
        half = 0.5 / delta

        def quotient(a: Any, b: Any) -> Any:
            return None if a is None else half * (a - b)

        return tree.map(quotient, upper, lower), {}

    def _slope(self, phi: Tree, rest: Args, needs: Tree) -> Tree:
        """The gradient of the objective in everything that is needed."""
        value, pull = vjp(lambda a: self.objective(*a), (phi, rest), needs=(needs,))
        return pull(torch.ones_like(value))[0]

    def pushforward(self, args: Tree, out: Any, tangent: Tree) -> tuple[Tree, ...]:
        # The tangent moves phi and the arguments together, so one central difference serves both.
        present = tree.map(
            lambda t, x: torch.zeros_like(x) if t is None and tree.is_float(x) else t, tangent, args
        )
        chosen: Callable[[Any], bool] = tree.is_float
        moved = [x for x in tree.leaves(present) if chosen(x)]
        delta = self._step(args[0], moved)

        def at(sign: float) -> Tree:
            shifted = tree.map(lambda x, t: x if t is None else x + sign * delta * t, args, present)
            return self.forward(shifted)[0]

        return (tree.scale(0.5 / delta, tree.sub(at(1.0), at(-1.0))),)

    def _step(self, phi: Tree, w: Tree) -> Any:
        if self.delta is not None:
            return self.delta
        eps = torch.finfo(tree.leaves(phi)[0].dtype).eps
        length = tree.norm(w)
        return (
            eps ** (1 / 3) * (1 + tree.norm(phi)) / torch.where(length > 0, length, torch.ones_like(length))
        )
