"""What a curvature is: products with second derivatives, and the derivative rule that they make.

A curvature is a derivative rule for the gradient map ``G(phi, args) = grad_phi g(phi, args)``: its pull-back along
``w`` gives the products ``(H w, C^T w)`` with ``H = d2g/dphi2`` and ``C = d2g/(dphi dargs)``. Steps, residuals and
linear systems are built on that map, so every estimator inherits the curvature without knowing of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metafunc import errors, options, tree
from metafunc.autodiff import grad, jvp, vjp
from metafunc.inner import Args, Gradient, Inner, Objective
from metafunc.plug import Plug
from metafunc.rule import Handle, Rule, Stats, call
from metafunc.tree import Tree

Hessian = Callable[[Tree, Args], Callable[[Tree], Tree]]
"""From ``(phi, args)`` to the products ``w -> H w`` there, whose preparation is done once."""


class Curvature(Plug, ABC):
    """How second derivatives of an objective are formed."""

    __slots__ = ()

    @abstractmethod
    def hessian(self, inner: Inner) -> Hessian:
        """Products with the second derivatives in ``phi``; they are not meant to be differentiated again."""

    def gradient(self, inner: Inner) -> Gradient:
        """The gradient of the objective in ``phi``, differentiable as this curvature says.

        Unless a curvature knows better, its products stand for the derivative in ``phi``, that in the arguments is
        exact, and a second derivative is refused.
        """
        rule = _OtherHessian(objective_of(inner), self.hessian(inner), repr(self))
        handle = Handle(rule)
        return lambda phi, args: call(handle, (phi, args))[0]


def check_curvature(value: Any) -> None:
    """Raise unless ``value`` is a curvature."""
    expected = "a curvature such as Exact(), CentralDifference() or GaussNewton()"
    options.instance("curvature", value, Curvature, expected)


def objective_of(inner: Inner) -> Objective:
    """The objective; raises if there is none."""
    if inner.objective is None:
        raise errors.no_objective()
    return inner.objective


@dataclass(frozen=True, slots=True)
class _OtherHessian(Rule):
    """The gradient map of ``objective`` with other products in the place of its Hessian's."""

    objective: Objective
    hessian: Hessian
    label: str

    @property
    def name(self) -> str:
        return self.label

    @property
    def exact(self) -> bool:
        return False

    def forward(self, args: Tree) -> tuple[Tree, ...]:
        phi, rest = args
        return (grad(self.objective, phi, rest),)

    def pullback(self, args: Tree, out: Any, cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        (phi, rest), w = args, cotangent[0]
        wanted, rest_wanted = needs
        here = self.hessian(phi, rest)(w) if any(tree.leaves(wanted)) else tree.map(lambda _: None, phi)
        _, pull = vjp(lambda a: grad(self.objective, phi, a), rest, needs=(rest_wanted,))
        return (here, pull(w)[0]), {}

    def pushforward(self, args: Tree, out: Any, tangent: Tree) -> tuple[Tree, ...]:
        (phi, rest), (t, rest_dot) = args, tangent
        _, moved = jvp(lambda a: grad(self.objective, phi, a), (rest,), (rest_dot,))
        if any(x is not None for x in tree.leaves(t)):
            full = tree.map(lambda x, y: tree.zeros_like(y) if x is None else x, t, phi)
            moved = tree.add(moved, self.hessian(phi, rest)(full))
        return (moved,)
