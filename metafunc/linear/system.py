"""A linear system that depends on parameters, and the derivative rule of its solution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metafunc import tree
from metafunc.autodiff import jvp, vjp
from metafunc.linear.solver import LinearSolver
from metafunc.rule import Handle, Rule, Stats, call
from metafunc.tree import Tree

Operator = Callable[[Tree], Callable[[Tree], Tree]]
"""From parameters to the products ``w -> A(params) w``, whose preparation is done once."""


@dataclass(frozen=True, slots=True)
class System(Rule):
    """``x(params, b) = A(params)^-1 b``, as found by ``solver``.

    Maths: from ``A x = b``, the cotangent ``u`` of ``x`` gives ``z = A^-T u`` to ``b`` and ``-d<z, A(params) x>`` to
    the parameters; the tangent of ``x`` is ``A^-1 (b' - A' x)``. A derivative of any order is again such solves: no
    solver's iterations are ever differentiated.

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

    def forward(self, args: Tree) -> tuple[Tree, ...]:
        params, b = args
        flat, unravel = tree.ravel(b)
        apply = self.operator(params)
        x, stats = self.solver.solve(lambda w: tree.ravel(apply(unravel(w)))[0], flat)
        return unravel(x), stats

    def pullback(self, args: Tree, out: Any, cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        (params, _), (x, _) = args, out
        mirrored = System(self.transposed, self.operator, self.solver)
        z, stats = solve(mirrored, params, cotangent[0])
        _, pull = vjp(lambda p: self.operator(p)(x), params, needs=(needs[0],))
        return (_negative(pull(z)[0]), z), stats

    def pushforward(self, args: Tree, out: Any, tangent: Tree) -> tuple[Tree, ...]:
        (params, b), (x, stats) = args, out
        params_dot, b_dot = tangent
        _, moved = jvp(lambda p: self.operator(p)(x), (params,), (params_dot,))
        b_dot = tree.map(lambda t, y: t if t is not None else tree.zeros_like(y), b_dot, b)
        x_dot, _ = solve(self, params, tree.sub(b_dot, moved))
        return x_dot, tree.zeros_like(stats)


def _negative(bar: Tree) -> Tree:
    return tree.map(lambda x: None if x is None else -x, bar)


def solve(system: System, params: Tree, b: Tree) -> tuple[Tree, Stats]:
    """``A(params)^-1 b`` and the solver's figures, differentiable in ``params`` and ``b``."""
    x, stats = call(Handle(system), (params, b))
    return x, stats
