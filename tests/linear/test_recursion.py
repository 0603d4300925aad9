"""The residual that is reported is never better than the true one, and is not made up either."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metafunc.linear import CG, GMRES, MINRES, LinearSolver, Neumann, NormalCG
from tests.linear.systems import flags, solve, spread, symmetric

D = 24
SOLVERS = [
    CG(max_steps=80, rtol=0.0),
    CG(max_steps=10, rtol=0.0),
    MINRES(max_steps=80, rtol=0.0),
    GMRES(max_steps=30, rtol=0.0),
    GMRES(max_steps=60, rtol=0.0, restart=6),
    NormalCG(max_steps=80, rtol=0.0),
    Neumann(max_steps=200),
]


def true_residual(matrix: Tensor, x: Tensor, b: Tensor) -> float:
    """In double precision, of the answer and the system as they are."""
    matrix, x, b = matrix.double(), x.double(), b.double()
    return float((b - matrix @ x).norm() / b.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("condition", [3.0, 1e2, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_the_reported_residual_is_honest(solver: LinearSolver, condition: float, dtype: torch.dtype) -> None:
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        matrix = spread(D, condition, seed).to(dtype)
        b = torch.randn(D, generator=generator, dtype=torch.float64).to(dtype)
        for x0 in (None, 1e4 * torch.randn(D, generator=generator, dtype=torch.float64).to(dtype)):
            x, stats = solve(solver, matrix, b, x0)
            reported, true = float(stats["linear_residual"]), true_residual(matrix, x, b)
            assert reported >= true / 4
            # The largest iterate bounds what rounding can do; no more than that is reported on top.
            reach = max(float(x.norm()), float(x0.norm()) if x0 is not None else 0.0) / float(b.norm())
            eps = torch.finfo(dtype).eps
            assert reported <= 2 * true + 20 * eps * max(reach, 1.0)


@pytest.mark.parametrize("solver", SOLVERS[:1] + SOLVERS[2:6], ids=repr)
def test_rounding_is_really_met(solver: LinearSolver) -> None:
    """Else the test above would be of nothing: what is updated runs on below what is true."""
    matrix, b = spread(D, 1e6).float(), torch.randn(D).float()
    x, stats = solve(solver, matrix, b)
    assert true_residual(matrix, x, b) > 1e-5
    assert flags(stats, 1e-6)


@pytest.mark.parametrize("solver", SOLVERS[:1] + SOLVERS[2:4], ids=repr)
def test_a_good_matrix_is_not_slandered(solver: LinearSolver) -> None:
    for dtype in (torch.float32, torch.float64):
        matrix, b = spread(D, 3.0).to(dtype), torch.randn(D).to(dtype)
        assert solve(solver, matrix, b)[1]["linear_residual"] < 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_products_that_fail_on_the_way(solver: LinearSolver) -> None:
    """Finite at first, not finite after some steps: what was found before is kept, and flagged."""
    matrix, b = spread(D, 30), torch.randn(D)
    count = [0]

    def products(w: Tensor) -> Tensor:
        count[0] += 1
        return matrix @ w / (1.0 if count[0] < 4 else 0.0)

    x, stats = solver.solve(products, b)
    assert torch.isfinite(x).all()
    assert x.norm() > 0
    assert stats["breakdown"]
    assert true_residual(matrix, x, b) < 1


def test_a_diverging_series_stops_before_it_overflows() -> None:
    x, stats = solve(
        Neumann(max_steps=2000, scale=10.0), symmetric(1, 2, 3), torch.ones(3, dtype=torch.float64)
    )
    assert torch.isfinite(x).all()
    assert stats["breakdown"]
    assert stats["linear_residual"] > 1
