"""A linear solve under differentiation: every solver, both modes, second derivatives, damping, starts, transposes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, vmap

from metafunc import tree
from metafunc.linear import (
    CG,
    GMRES,
    MINRES,
    Direct,
    Jacobi,
    LinearSolver,
    Neumann,
    NormalCG,
    System,
    solve,
)
from tests.linear.systems import symmetric
from tests.tasks import close

D = 4
FULL: dict[str, Any] = {"max_steps": 3 * D, "rtol": 1e-13}
BASE = symmetric(1, 3, 6, 10)
TWIST = torch.tensor([[0.0, 1, 2, 0], [-1, 0, 1, 0], [-2, -1, 0, 1], [0, 0, -1, 0]], dtype=torch.float64)
SOLVERS = [
    CG(**FULL),
    CG(**FULL, preconditioner=Jacobi()),
    CG(**FULL, damping=0.5),
    MINRES(**FULL),
    MINRES(**FULL, damping=0.5),
    GMRES(**FULL),
    GMRES(**FULL, damping=0.5, preconditioner=torch.linspace(1, 2, D, dtype=torch.float64)),
    GMRES(max_steps=45, rtol=1e-13, restart=3),
    NormalCG(max_steps=30, rtol=1e-14),
    NormalCG(max_steps=30, rtol=1e-14, damping=0.5),
    NormalCG(
        max_steps=30,
        rtol=1e-14,
        damping=0.5,
        preconditioner=lambda w: torch.linalg.inv(BASE + 0.3 * TWIST) @ w,
    ),
    Neumann(max_steps=140, scale=0.14),
    Direct(),
    Direct(damping=0.5),
    Direct(rcond=1e-12),
]


def matrix_at(t: Tensor, symmetric: bool) -> Tensor:
    """A matrix all of whose entries depend on ``t``."""
    outer = torch.outer(torch.sin(t), torch.cos(t))
    return BASE + torch.diag(t**2) + (0.2 * (outer + outer.T) if symmetric else 0.3 * TWIST + 0.4 * outer)


def system(solver: LinearSolver, symmetric: bool) -> System:
    def operator(t: Tensor) -> Any:
        return lambda w: matrix_at(t, symmetric) @ w

    def transposed(t: Tensor) -> Any:
        return lambda w: matrix_at(t, symmetric).T @ w

    return System(operator, operator if symmetric else transposed, solver)


def dense(solver: Any, symmetric: bool, t: Tensor) -> Tensor:
    """The damped solution, by factorisation and with torch's own derivatives."""
    a, b, damping = matrix_at(t, symmetric), torch.sin(3 * t), getattr(solver, "damping", 0.0)
    if isinstance(solver, NormalCG):
        return torch.linalg.solve(a.T @ a + damping * torch.eye(D), a.T @ b)
    return torch.linalg.solve(a + damping * torch.eye(D), b)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_the_solution_has_its_own_derivatives(solver: LinearSolver, symmetric: bool) -> None:
    """First and second derivatives, both modes, of a solve with a matrix and a right-hand side that depend on t."""
    if solver.symmetric_only and not symmetric:
        pytest.skip("for symmetric systems")
    linear = system(solver, symmetric)

    def found(t: Tensor) -> Tensor:
        return solve(linear, t, torch.sin(3 * t))[0]

    def expected(t: Tensor) -> Tensor:
        return dense(solver, symmetric, t)

    t = torch.randn(D)
    close(found(t), expected(t), 1e-10)
    first, second = jacrev(expected)(t), jacrev(jacrev(expected))(t)
    for mode in (jacrev, jacfwd):
        close(mode(found)(t), first, 1e-8)
        for outer in (jacrev, jacfwd):
            close(outer(mode(found))(t), second, 1e-7)
    ts = torch.randn(3, D)
    close(vmap(jacrev(found))(ts), vmap(jacrev(expected))(ts), 1e-8)
    close(grad(lambda t: vmap(found)(t).sum())(ts), grad(lambda t: vmap(expected)(t).sum())(ts), 1e-8)
    leaf = t.clone().requires_grad_()
    (g,) = torch.autograd.grad((found(leaf) ** 2).sum(), leaf, create_graph=True)
    assert g.requires_grad
    close(g.detach(), grad(lambda t: (expected(t) ** 2).sum())(t), 1e-8)


def test_damping_shows_in_the_derivative() -> None:
    """Else the test above would not tell the derivative of the damped solution from that of the other."""
    t = torch.randn(D)
    for kind in (CG(damping=0.5), NormalCG(damping=0.5)):
        plain = jacrev(lambda t: dense(None, False, t))(t)
        damped = jacrev(lambda t, kind=kind: dense(kind, False, t))(t)
        assert (plain - damped).norm() > 0.01 * plain.norm()


@pytest.mark.parametrize("mode", [jacrev, jacfwd])
def test_a_start_is_given_to_the_solver_and_gets_no_derivative(mode: Any) -> None:
    linear, t = system(GMRES(**FULL), symmetric=False), torch.randn(D)
    solution = solve(linear, t, torch.sin(3 * t))[0]
    again, stats = solve(linear, t, torch.sin(3 * t), solution)
    assert stats["linear_steps"] == 0
    close(again, solution, 1e-12)
    zero = mode(lambda x0: solve(linear, t, torch.sin(3 * t), x0)[0])(solution)
    assert not zero.any()
    warm = mode(lambda t: solve(linear, t, torch.sin(3 * t), 2 * t)[0])(t)
    close(warm, mode(lambda t: dense(None, False, t))(t), 1e-8)
    many = vmap(lambda t, x0: solve(linear, t, torch.sin(3 * t), x0)[0])(t.expand(2, D), torch.randn(2, D))
    close(many, solution.expand(2, D), 1e-10)


def test_trees_with_a_start() -> None:
    at = {"a": torch.randn(2), "b": torch.randn(2)}
    _, unravel = tree.ravel(at)

    def operator(_: Any) -> Any:
        return lambda w: unravel(BASE @ tree.ravel(w)[0])

    linear = System(operator, operator, CG(**FULL))
    expected = torch.linalg.solve(BASE, tree.ravel(at)[0])
    x, stats = solve(linear, None, at, unravel(expected))
    close(tree.ravel(x)[0], expected, 1e-12)
    assert stats["linear_steps"] == 0
    bar = grad(lambda b: tree.dot(solve(linear, None, b, at)[0], at))(at)
    close(tree.ravel(bar)[0], expected, 1e-10)
    with pytest.raises(ValueError, match=r"(?s)x0: expected TreeSpec.*got TreeSpec.*Give a tree like phi"):
        solve(linear, None, at, {"a": at["a"]})
    with pytest.raises(
        ValueError, match=r"x0 at \['b'\]: expected float64\[2\] on cpu, got float64\[3\] on cpu"
    ):
        solve(linear, None, at, at | {"b": torch.zeros(3)})


def test_the_transpose_is_prepared_only_if_a_solver_asks_for_it() -> None:
    prepared: list[str] = []

    def operator(t: Tensor) -> Any:
        prepared.append("A")
        return lambda w: matrix_at(t, False) @ w

    def transposed(t: Tensor) -> Any:
        prepared.append("A^T")
        return lambda w: matrix_at(t, False).T @ w

    t = torch.randn(D)
    for solver, needed in ((GMRES(), ["A"]), (Direct(), ["A"]), (NormalCG(), ["A", "A^T"])):
        prepared.clear()
        solve(System(operator, transposed, solver), t, t)
        assert prepared == needed
    prepared.clear()
    solve(System(operator, operator, NormalCG()), t, t)
    assert prepared == ["A"]
