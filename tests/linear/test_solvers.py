"""Linear solvers against dense algebra: right, or flagged; never NaN that travels on in silence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.func import grad, jacfwd, jacrev, vmap

import metafunc as mf
from metafunc.linear import System, as_solver, solve
from tests.tasks import close

SOLVERS = [mf.CG(max_steps=40, rtol=1e-12), mf.Neumann(max_steps=4000, scale=0.09), mf.Direct()]


def spd(d: int = 6, condition: float = 10.0) -> torch.Tensor:
    basis, _ = torch.linalg.qr(torch.randn(d, d))
    return basis @ torch.diag(torch.linspace(1, condition, d)) @ basis.T


def run(solver: mf.LinearSolver, matrix: torch.Tensor, b: torch.Tensor) -> Any:
    return solver.solve(lambda w: matrix @ w, b)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_regular_system(solver: mf.LinearSolver) -> None:
    matrix, b = spd(), torch.randn(6)
    x, stats = run(solver, matrix, b)
    close(x, torch.linalg.solve(matrix, b), 1e-9)
    assert stats["linear_residual"] < 1e-10
    assert not stats["breakdown"]
    assert not stats["negative_curvature"]


@pytest.mark.parametrize("solver", [mf.CG(max_steps=7), mf.Neumann(max_steps=7), mf.Direct()], ids=repr)
def test_the_identity_is_solved_at_once(solver: mf.LinearSolver) -> None:
    b = torch.randn(5)
    x, stats = run(solver, torch.eye(5), b)
    close(x, b, 1e-14)
    assert stats["linear_residual"] < 1e-14
    if isinstance(solver, mf.CG):
        assert stats["linear_steps"] == 1


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_zero_right_hand_side_gives_zero(solver: mf.LinearSolver) -> None:
    x, stats = run(solver, spd(), torch.zeros(6))
    assert torch.equal(x, torch.zeros(6))
    assert stats["linear_residual"] == 0


@pytest.mark.parametrize("rtol", [0.0, 1e-6])
def test_cg_stops_early_and_stays_there(rtol: float) -> None:
    """Two distinct eigenvalues need two steps; the other 38 must neither move the iterate nor divide by zero."""
    matrix, b = torch.diag(torch.tensor([1.0, 1.0, 4.0, 4.0])), torch.randn(4)
    x, stats = run(mf.CG(max_steps=40, rtol=rtol), matrix, b)
    close(x, torch.linalg.solve(matrix, b), 1e-14)
    assert torch.isfinite(x).all()
    if rtol:
        assert stats["linear_steps"] == 2


def test_cg_flags_negative_curvature_and_keeps_what_it_has() -> None:
    matrix, b = torch.diag(torch.tensor([3.0, 2.0, -1.0])), torch.tensor([1.0, 1.0, 0.1])
    x, stats = run(mf.CG(max_steps=10), matrix, b)
    assert stats["negative_curvature"]
    assert torch.isfinite(x).all()
    assert x.norm() > 0


@pytest.mark.parametrize("entry", [1.0, 0.0], ids=["swap", "zero"])
def test_cg_survives_a_direction_without_curvature(entry: float) -> None:
    """p'Ap = 0 exactly, where others divide by zero."""
    matrix = torch.tensor([[0.0, entry], [entry, 0.0]])
    x, stats = run(mf.CG(max_steps=5), matrix, torch.tensor([1.0, 0.0]))
    assert stats["negative_curvature"]
    assert torch.equal(x, torch.zeros(2))


def test_cg_flags_products_that_are_not_finite() -> None:
    x, stats = mf.CG(max_steps=5).solve(lambda w: w * float("nan"), torch.ones(3))
    assert stats["breakdown"]
    assert torch.equal(x, torch.zeros(3))


def test_cg_damping_and_unfinished_solves_are_what_they_say() -> None:
    matrix, b = spd(condition=100.0), torch.randn(6)
    x, _ = run(mf.CG(max_steps=30, rtol=1e-12, damping=2.0), matrix, b)
    close(x, torch.linalg.solve(matrix + 2 * torch.eye(6), b), 1e-9)
    x, stats = run(mf.CG(max_steps=2, rtol=1e-12), matrix, b)
    close(stats["linear_residual"], (b - matrix @ x).norm() / b.norm(), 1e-9)
    assert stats["linear_residual"] > 1e-3


def test_a_singular_matrix_is_flagged() -> None:
    x, stats = run(mf.Direct(), torch.diag(torch.tensor([1.0, 0.0])), torch.ones(2))
    assert not (torch.isfinite(x).all() and stats["linear_residual"] < 1e-3)


def test_a_batch_of_mixed_systems_is_masked_system_by_system() -> None:
    """Identity, ill-conditioned, indefinite and zero right-hand side together, as if each were alone."""
    matrices = torch.stack(
        [
            torch.eye(4),
            torch.diag(torch.tensor([1.0, 10, 100, 1e3])),
            torch.diag(torch.tensor([1.0, 1, 1, -2])),
            spd(4),
        ]
    )
    b = torch.randn(4, 4)
    b[3] = 0
    solver = mf.CG(max_steps=12, rtol=1e-10)
    x, stats = vmap(lambda m, r: solver.solve(lambda w: m @ w, r))(matrices, b)
    for i in range(4):
        alone, figures = run(solver, matrices[i], b[i])
        assert torch.allclose(x[i], alone, rtol=1e-8, atol=1e-12)
        assert {k: v[i].item() for k, v in stats.items() if v.dtype == torch.bool} == {
            k: v.item() for k, v in figures.items() if v.dtype == torch.bool
        }
    assert stats["negative_curvature"].tolist() == [False, False, True, False]


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_solution_has_its_own_derivatives(solver: mf.LinearSolver, symmetric: bool) -> None:
    """First and second derivatives, both modes, of a solve with a matrix and a right-hand side that depend on t."""
    if isinstance(solver, mf.CG) and not symmetric:
        pytest.skip("CG is for symmetric systems")
    base, twist = spd(4), torch.randn(4, 4)
    matrix = base if symmetric else base + 0.3 * (twist - twist.T)

    def a(t: torch.Tensor) -> torch.Tensor:
        return matrix + torch.diag(t**2)

    def operator(t: torch.Tensor) -> Any:
        return lambda w: a(t) @ w

    def transposed(t: torch.Tensor) -> Any:
        return lambda w: a(t).T @ w

    def found(t: torch.Tensor) -> torch.Tensor:
        return solve(System(operator, transposed, solver), t, torch.sin(t))[0]

    def dense(t: torch.Tensor) -> torch.Tensor:
        return torch.linalg.solve(a(t), torch.sin(t))

    t = torch.randn(4)
    for mode in (jacrev, jacfwd):
        close(mode(found)(t), jacrev(dense)(t), 1e-8)
        for outer in (jacrev, jacfwd):
            close(outer(mode(found))(t), jacrev(jacrev(dense))(t), 1e-7)
    ts = torch.randn(3, 4)
    close(vmap(jacrev(found))(ts), vmap(jacrev(dense))(ts), 1e-8)
    close(grad(lambda t: vmap(found)(t).sum())(ts), grad(lambda t: vmap(dense)(t).sum())(ts), 1e-8)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: mf.CG(max_steps=0), "max_steps: expected an integer of at least 1, got 0"),
        (lambda: mf.CG(rtol=2), r"rtol: expected a number in \[0, 1\), got 2"),
        (lambda: mf.CG(damping=-1), "damping: expected a number of at least 0, got -1"),
        (lambda: mf.Neumann(max_steps=2.5), "max_steps: expected an integer"),  # type: ignore[arg-type]
        (lambda: mf.Neumann(scale=0), "scale: expected a positive number, got 0"),
    ],
)
def test_options_out_of_range(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


def test_a_solver_class_or_a_number_is_no_solver() -> None:
    with pytest.raises(
        TypeError, match=r"solver: expected a linear solver such as CG\(max_steps=5\).*got the class CG"
    ):
        as_solver(mf.CG)
    with pytest.raises(TypeError, match="solver: expected a linear solver"):
        mf.Implicit(5)
