"""First-order MAML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metafunc import autodiff
from metafunc.dependence import reach_of_init, require_reach
from metafunc.estimator import Estimator
from metafunc.inner import Args, Inner, solve_with
from metafunc.rule import Rule, Stats
from metafunc.tree import Tree


@dataclass(frozen=True, slots=True, repr=False)
class FirstOrder(Estimator):
    """The Jacobian of the solve replaced by that of its initialisation: first-order MAML.

    Maths: ``theta_bar = (d init / d theta)^T v``, which is ``v`` itself where ``phi`` starts at ``theta``.

    Source: binommaml section 2.2; fo-b-maml (3).

    Exact when: never, but for a flat inner objective.

    Bias: ``-[prod_k (I - lr H_k) - I] v`` for gradient descent without prox.

    Cost: nothing beyond the solve. Memory: none.

    Raises:
        ZeroGradientError: For a gradient to anything but the initialisation, such as a learned ``lr`` or the data.
    """

    def rule(self, inner: Inner) -> Rule:
        """See :class:`FirstOrder`."""
        return ThroughInit(inner)


@dataclass(frozen=True, slots=True)
class ThroughInit(Rule):
    """Outcome: ``phi_K`` alone."""

    inner: Inner

    @property
    def name(self) -> str:
        return "FirstOrder()"

    @property
    def exact(self) -> bool:
        return False

    @property
    def batchable(self) -> bool:
        return self.inner.solve is None

    def forward(self, args: Args) -> tuple[Tree, ...]:
        return (solve_with(self.inner, args),)

    def pullback(self, args: Args, out: tuple[Tree, ...], cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        reached = reach_of_init(self.inner.init, args)
        require_reach(
            self.name, "use Truncated, Binomial or Explicit", self._feeds(out[0]), reached, args, needs
        )
        _, pull = autodiff.vjp(self.inner.init, args, needs=(needs,))
        return pull(cotangent[0])[0], {}

    def pushforward(self, args: Args, out: tuple[Tree, ...], tangent: Tree) -> tuple[Tree, ...]:
        return (autodiff.jvp(self.inner.init, (args,), (tangent,))[1],)

    def _feeds(self, phi: Tree) -> Callable[[Args], Tree]:
        def feeds(args: Args) -> Tree:
            return self.inner.inputs(args), self.inner.slope(phi, args)

        return feeds
