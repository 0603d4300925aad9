"""A linear system that depends on parameters, and the derivative rule of its solution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metafunc import tree
from metafunc.autodiff import jvp, vjp
from metafunc.linear.products import Products, check_like, flattened
from metafunc.linear.solver import Foreign, LinearSolver
from metafunc.rule import Handle, Rule, Stats, call
from metafunc.tree import Tree

Operator = Callable[[Tree], Callable[[Tree], Tree]]
"""From parameters to the products ``w -> A(params) w``, whose preparation is done once."""


@dataclass(frozen=True, slots=True)
class System(Rule):
    """``x(params, b) = A(params)^-1 b``, as found by ``solver`` from a start that the solution does not depend on.

    Maths: from ``A x = b``, the cotangent ``u`` of ``x`` gives ``z = A^-T u`` to ``b`` and ``-d<z, A(params) x>`` to
    the parameters; the tangent of ``x`` is ``A^-1 (b' - A' x)``. A derivative of any order is again such solves: no
    solver's iterations are ever differentiated.

    Where the solver has Tikhonov's damping ``c``, ``x = (A^T A + c I)^-1 A^T b = S b``. With ``y = (b - A x) / c``, for
    which ``A^T y = x``: ``z = S^T u``, the parameters get ``d(<y, A(params) (u - A^T z)> - <z, A(params) x>)``, and the
    tangent is ``S (b' - A' x - A v) + v`` with ``v = A'^T y``.

    Attributes:
        operator: The matrix.
        transposed: Its transpose; the operator itself if the matrix is symmetric.
        solver: The linear solver.
    """

    operator: Operator
    transposed: Operator
    solver: LinearSolver

    @property
    def name(self) -> str:
        return repr(self.solver)

    @property
    def batchable(self) -> bool:
        return not isinstance(self.solver, Foreign)  # those of other libraries look at values

    def forward(self, args: Tree) -> tuple[Tree, ...]:
        params, b, x0 = args
        flat, unravel = tree.ravel(b)
        if x0 is not None:
            check_like("x0", b, x0)
            x0 = tree.ravel(x0)[0]
        # Preparing the transpose costs a linearisation, so that it waits until a solver asks for it.
        mirror = None
        if self.transposed != self.operator:
            mirror = lambda: flattened(self.transposed(params), unravel)  # noqa: E731
        x, stats = self.solver.solve(
            Products(flattened(self.operator(params), unravel), unravel, mirror), flat, x0
        )
        return unravel(x), stats

    def pullback(self, args: Tree, out: Any, cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        (params, b, x0), (x, _), u = args, out, cotangent[0]
        mirrored = System(self.transposed, self.operator, self.solver.transposed)
        z, stats = solve(mirrored, params, u)
        vectors, weights = [x], [tree.neg(z)]
        if self.solver.tikhonov:
            vectors.append(tree.sub(u, self.transposed(params)(z)))
            weights.append(self._y(params, b, x))
        _, pull = vjp(lambda p: _each(self.operator(p), vectors), params, needs=(needs[0],))
        return (pull(weights)[0], z, tree.map(lambda _: None, x0)), stats

    def pushforward(self, args: Tree, out: Any, tangent: Tree) -> tuple[Tree, ...]:
        (params, b, _), (x, stats) = args, out
        params_dot, b_dot, _ = tangent
        _, moved = jvp(lambda p: self.operator(p)(x), (params,), (params_dot,))
        b_dot = tree.map(lambda t, y: t if t is not None else tree.zeros_like(y), b_dot, b)
        right = tree.sub(b_dot, moved)
        if not self.solver.tikhonov:
            return solve(self, params, right)[0], tree.zeros_like(stats)
        y = self._y(params, b, x)
        _, v = jvp(lambda p: self.transposed(p)(y), (params,), (params_dot,))
        x_dot, _ = solve(self, params, tree.sub(right, self.operator(params)(v)))
        return tree.add(x_dot, v), tree.zeros_like(stats)

    def _y(self, params: Tree, b: Tree, x: Tree) -> Tree:
        return tree.scale(1 / self.solver.tikhonov, tree.sub(b, self.operator(params)(x)))


def _each(apply: Callable[[Tree], Tree], vectors: list[Tree]) -> list[Tree]:
    return [apply(w) for w in vectors]


def solve(system: System, params: Tree, b: Tree, x0: Tree | None = None) -> tuple[Tree, Stats]:
    """``A(params)^-1 b`` and the solver's figures, differentiable in ``params`` and ``b``; ``x0`` is where to start."""
    x, stats = call(Handle(system), (params, b, x0))
    return x, stats
