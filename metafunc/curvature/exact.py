"""Exact second derivatives by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from metafunc import autodiff, errors, options, tree
from metafunc.autodiff import grad, jvp, vjp
from metafunc.curvature.curvature import Curvature, Hessian, objective_of
from metafunc.inner import Args, Gradient, Inner, Objective
from metafunc.rule import Handle, Rule, Stats, call
from metafunc.tree import Tree


@dataclass(frozen=True, slots=True, repr=False)
class Exact(Curvature):
    """Exact products by automatic differentiation.

    Maths: ``H w = d/dphi <G(phi, args), w>``, reverse mode over reverse mode, or
    ``H w = d/dt G(phi + t w, args)`` at ``t = 0``, forward mode over reverse mode.

    Cost: in reverse mode the graph of the gradient is built once for one pair ``(phi, args)`` and serves all products
    there, as the steps of a linear solver need them: about two gradients for the first product, one or less for each
    further one. In forward mode every product costs two to four gradients, and nothing is kept between them.

    Attributes:
        mode: ``"reverse"``, ``"forward"``, or ``"auto"``: reverse mode, the faster one wherever it works. Where an
            operator of the model has no second derivative in reverse mode, ``"auto"`` takes attention's plain
            implementation instead of its fused one, and if that does not help forward mode. It finds out with one
            trial product when a model is differentiated for the first time.

    Raises:
        ValueError: For another mode.
        NotImplementedError: When first differentiated, if an operator has no second derivative in any mode.
    """

    mode: Literal["auto", "reverse", "forward"] = "auto"

    def __post_init__(self) -> None:
        options.choice("mode", self.mode, "auto", "reverse", "forward")

    def hessian(self, inner: Inner) -> Hessian:
        """See :class:`Exact`."""
        gradient = self._gradient(inner.curved or objective_of(inner))

        def products(phi: Tree, args: Args) -> Callable[[Tree], Tree]:
            _, pull = vjp(lambda p: gradient(p, args), phi)
            return lambda w: pull(w)[0]

        return products

    def gradient(self, inner: Inner) -> Gradient:
        """The gradient map with its exact derivatives of every order."""
        if inner.curved is not None:
            return Curvature.gradient(self, inner)
        return self._gradient(objective_of(inner))

    def _gradient(self, objective: Objective) -> Gradient:
        mode = _Mode(objective, None if self.mode == "auto" else self.mode)
        return lambda phi, args: call(mode.handle(phi, args), (phi, args))[0]


@dataclass(slots=True, eq=False)
class _Mode:
    """The rule for one objective: as asked for, or found by trial the first time that it is differentiated."""

    objective: Objective
    asked: str | None
    rules: dict[str, Handle] = field(init=False)
    found: Handle | None = field(init=False)

    def __post_init__(self) -> None:
        self.rules = {
            "reverse": Handle(_Reverse(self.objective)),
            "attention": Handle(_Reverse(_with_plain_attention(self.objective))),
            "forward": Handle(_Forward(self.objective)),
        }
        self.found = self.rules[self.asked] if self.asked else None

    def handle(self, phi: Tree, args: Args) -> Handle:
        """The rule to use at these arguments."""
        if self.found is None:
            if not autodiff.is_recording((phi, args)):
                return self.rules["reverse"]
            self.found = self._try(phi, args)
        return self.found

    def _try(self, phi: Tree, args: Args) -> Handle:
        with autodiff.trial((phi, args)) as at:
            try:
                slope = grad(self.objective, *at)
            except Exception:  # the model itself fails, which comes to light where it is really used
                return self.rules["reverse"]
            refusals: list[Exception] = []
            for handle in self.rules.values():
                refusal = _refusal(handle.rule, at, slope)
                if refusal is None:
                    return handle
                refusals.append(refusal)
        raise errors.no_second_derivative_of_model(refusals[0])


def _refusal(rule: Rule, at: Tree, slope: Tree) -> Exception | None:
    """What torch says to one product, or ``None`` if it can be had."""
    needs = tree.map(tree.is_float, at[0]), tree.map(lambda _: False, at[1])
    try:
        rule.pullback(at, (slope,), (slope,), needs)
    except (RuntimeError, NotImplementedError) as error:
        return error
    return None


def _with_plain_attention(objective: Objective) -> Objective:
    def plain(phi: Tree, args: Args) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return objective(phi, args)

    return plain


@dataclass(frozen=True, slots=True)
class _Reverse(Rule):
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


@dataclass(frozen=True, slots=True)
class _Forward(Rule):
    """The pull-back of the gradient map as the push-forward of all first derivatives along ``w``: the second
    derivatives are symmetric."""

    objective: Objective

    def forward(self, args: Tree) -> tuple[Tree, ...]:
        phi, rest = args
        return (grad(self.objective, phi, rest),)

    def pullback(self, args: Tree, out: Any, cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        phi, rest = args
        _, dot = jvp(lambda p: self._slopes(p, rest, needs), (phi,), (cotangent[0],))
        found = iter(dot)
        return tree.map(lambda want, x: next(found) if want and tree.is_float(x) else None, needs, args), {}

    def _slopes(self, phi: Tree, rest: Args, needs: Tree) -> list[Tensor]:
        value, pull = vjp(lambda a: self.objective(*a), (phi, rest), needs=(needs,))
        return [x for x in tree.leaves(pull(torch.ones_like(value))[0]) if x is not None]

    def pushforward(self, args: Tree, out: Any, tangent: Tree) -> tuple[Tree, ...]:
        return (jvp(lambda a: self.forward(a)[0], (args,), (tangent,))[1],)
