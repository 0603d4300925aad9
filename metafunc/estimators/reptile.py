"""Reptile's pseudo-gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metafunc import autodiff, errors, tree
from metafunc.dependence import reach_of_init, require_reach
from metafunc.estimator import Estimator
from metafunc.inner import Args, Inner, solve_with
from metafunc.rule import Rule, Stats
from metafunc.tree import Tree


@dataclass(frozen=True, slots=True, repr=False)
class Reptile(Estimator):
    """The average inner gradient along the path, in place of a meta-gradient.

    Maths: ``(init(theta) - phi_K) / (K lr)``, pulled back through ``init``. It does not depend on the outer loss at
    all: any cotangent of ``phi`` gives the same answer.

    Source: fo-b-maml (4); Nichol et al. 2018.

    Bias: it estimates no gradient of the outer loss; for equal inner and outer losses it is the mean of the inner
    gradients on the way.

    Cost: nothing beyond the solve. Memory: none.

    Because the cotangent's size is lost, the pseudo-gradient counts every task with weight one. Under
    ``vmap(grad(...))`` and ``mf.meta_grad`` that is what is wanted; a derivative of a *mean over* ``vmap`` is refused;
    a mean written as a Python loop comes out as the sum.

    Raises:
        TypeError: Around a solver without a learning rate.
        ZeroGradientError: For a gradient to anything but the initialisation, and for a mean over ``vmap``.
    """

    def rule(self, inner: Inner) -> Rule:
        """See :class:`Reptile`."""
        if inner.step is None or "lr" not in inner.settings:
            raise errors.needs_lr("Reptile", inner.name)
        return AverageGradient(inner)


@dataclass(frozen=True, slots=True)
class AverageGradient(Rule):
    """Outcome: ``phi_K`` alone."""

    inner: Inner

    @property
    def name(self) -> str:
        return "Reptile()"

    @property
    def exact(self) -> bool:
        return False

    @property
    def linear(self) -> bool:
        return False

    def forward(self, args: Args) -> tuple[Tree, ...]:
        return (solve_with(self.inner, args),)

    def pullback(self, args: Args, out: tuple[Tree, ...], cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        reached = reach_of_init(self.inner.init, args)
        require_reach(self.name, "use another estimator", self._feeds(out[0]), reached, args, needs)
        first, pull = autodiff.vjp(self.inner.init, args, needs=(needs,))
        lr = self.inner.settings["lr"](args)
        travelled = tree.scale(1 / self.inner.steps, tree.sub(first, out[0]))
        return pull(_divided(travelled, lr))[0], {}

    def _feeds(self, phi: Tree) -> Callable[[Args], Tree]:
        def feeds(args: Args) -> Tree:
            return self.inner.inputs(args), self.inner.slope(phi, args)

        return feeds


def _divided(x: Tree, by: Any) -> Tree:
    return tree.scale(tree.map(lambda b: 1 / b, by), x)
