"""The implicit function theorem at the solution (iMAML)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from metafunc import errors, options, tree
from metafunc.autodiff import jvp, vjp
from metafunc.curvature import Curvature, Exact, check_curvature
from metafunc.decorated import Decorated
from metafunc.dependence import Watch, require_reach
from metafunc.estimator import Estimator
from metafunc.generators import refusing_draws
from metafunc.inner import Args, Gradient, Inner, solve_with, stationarity
from metafunc.linear import CG, LinearSolver, System, as_solver, solve
from metafunc.rule import Handle, Rule, Stats, call
from metafunc.tree import Tree


@dataclass(frozen=True, slots=True, repr=False)
class Implicit(Estimator):
    """The derivative of the solution, whatever path led to it: implicit differentiation, iMAML.

    Maths: where ``r(phi, theta) = 0`` (``r`` is the gradient of the inner objective, or a declared residual), with
    ``A = dr/dphi``: solve ``A^T w = v``, then ``theta_bar = -(dr/dtheta)^T w``. For the proximal objective this is
    ``(I + H/prox)^-1 v``. In forward mode ``phi' = -A^-1 (dr/dtheta) theta'``.

    Source: imaml Lemma 1, Algorithm 2; fo-b-maml (15) for objectives that depend on ``theta`` in other ways.

    Exact when: ``phi`` is stationary and the linear system is solved; both are reported in the stats
    (``stationarity``, the gradient's norm over that at the start, and ``linear_residual``). So are second derivatives,
    since the linear solve has a derivative rule of its own.

    Bias: of the order of the distance of ``phi`` from the solution plus the error of the linear solve.

    Cost: the solve forward; back one linearised gradient, as many products as the solver takes, one gradient for the
    mixed derivatives and one at the start for the stats. Memory: the activations of one gradient, however many steps.

    Attributes:
        solver: A linear solver, or any function ``solve(matvec, b) -> x``.
        curvature: How products with the Hessian are formed.
        root: ``torchopt.diff.implicit.custom_root``, to have TorchOpt's own decorator do the work. It then gets the
            whole batch of tasks as one system, with ``vmap`` inside, since it fails under the transforms itself.
            Second derivatives and forward mode are refused, and the stats say nothing of the linear solve.

    Raises:
        ZeroGradientError: If the solution does not depend on ``theta`` at all (no ``prox``), or for a gradient to
            something that only the path depends on, such as ``lr``.
        TypeError: For a solver of symmetric systems around a residual that is not known to be symmetric.
    """

    takes_functions: ClassVar[bool] = True

    solver: Any = CG()
    curvature: Curvature = Exact()
    root: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        as_solver(self.solver)
        check_curvature(self.curvature)
        options.function("root", self.root, "such as torchopt.diff.implicit.custom_root", optional=True)

    def rule(self, inner: Inner) -> Rule:
        """See :class:`Implicit`."""
        if inner.free:
            raise errors.no_implicit_gradient(repr(self), inner.name)
        solver = as_solver(self.solver)
        if solver.symmetric_only and not inner.symmetric:
            raise errors.needs_symmetric(repr(solver), inner.name)
        if inner.residual is not None:
            if not isinstance(self.curvature, Exact):
                raise errors.needs_curvature_free("Implicit", inner.name)
            return Root(inner, inner.residual, solver, repr(self), self.root)
        if inner.objective is None:
            raise errors.needs_objective("Implicit", inner.name)
        return Root(inner, self.curvature.gradient(inner), solver, repr(self), self.root)


@dataclass(frozen=True, slots=True)
class Root(Rule):
    """Outcome: ``phi`` alone."""

    inner: Inner
    residual: Gradient
    solver: LinearSolver
    label: str
    root: Callable[..., Any] | None = None

    @property
    def name(self) -> str:
        return self.label

    @property
    def exact(self) -> bool:
        return self.root is None

    @property
    def batchable(self) -> bool:
        return self.inner.batchable

    def forward(self, args: Args) -> tuple[Tree, ...]:
        return (solve_with(self.inner, args),)

    def pullback(self, args: Args, out: tuple[Tree, ...], cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        (phi,), (v,) = out, cotangent
        watch = Watch(args)
        with refusing_draws(args, lambda: errors.drawing_objective(self.label)):
            r, pull = vjp(lambda a: self.residual(phi, watch(a)), args, needs=(needs,))
        if self.root is None:
            start = args.guess if tree.leaves(args.guess) else None
            w, stats = solve(self._transposed(), (phi, args._replace(guess=())), v, start)
            bar = tree.map(lambda x: None if x is None else -x, pull(w)[0])
            stats = stats | {"adjoint": w}
        else:
            pull(v)  # for the watch alone
            bar = call(Handle(Decorated(self.residual, self.root, self.solver, needs)), (args, phi, v))[0]
            stats = {}
        advice = "use Explicit or Truncated, which differentiate the path"
        require_reach(self.label, advice, self.inner.inputs, watch.touched, args, needs)
        return bar, stats | {"stationarity": stationarity(self.inner, r, args)}

    def pushforward(self, args: Args, out: tuple[Tree, ...], tangent: Tree) -> tuple[Tree, ...]:
        if self.root is not None:
            raise errors.no_forward_mode(self.label)
        (phi,) = out
        with refusing_draws(args, lambda: errors.drawing_objective(self.label)):
            _, moved = jvp(lambda a: self.residual(phi, a), (args,), (tangent,))
        t, _ = solve(self._system(), (phi, args), tree.neg(moved))
        return (t,)

    def _system(self) -> System:
        if self.inner.symmetric:
            return System(self._products, self._products, self.solver)
        return System(self._tangent_products, self._products, self.solver)

    def _transposed(self) -> System:
        system = self._system()
        return System(system.transposed, system.operator, system.solver.transposed)

    def _products(self, at: Tree) -> Any:
        """``w -> A^T w``; one linearisation serves all of them."""
        phi, args = at
        _, pull = vjp(lambda p: self.residual(p, args), phi)

        def product(w: Tree) -> Tree:
            return pull(w)[0]

        return product

    def _tangent_products(self, at: Tree) -> Any:
        """``w -> A w``."""
        phi, args = at

        def product(w: Tree) -> Tree:
            return jvp(lambda p: self.residual(p, args), (phi,), (w,))[1]

        return product
