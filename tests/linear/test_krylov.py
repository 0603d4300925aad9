"""Every iterate of the Krylov methods is the minimiser that its theory says, and they end when it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from metafunc.linear import CG, GMRES, MINRES, LinearSolver, NormalCG
from tests.linear.systems import D, galerkin, least, solve, spread, symmetric
from tests.tasks import close

EYE = torch.eye(D, dtype=torch.float64)
M = symmetric(0.5, 0.8, 1, 1.5, 2, 3, seed=1)
"""A preconditioner that is dense and does no good, so that the spaces differ."""
TWISTED = symmetric(1, 2, 3, 4, 5, 6) + torch.triu(torch.ones(D, D, dtype=torch.float64), 1)
INDEFINITE = symmetric(-3, -1, 1, 2, 3, 5)
SKEWED = M + 0.3 * torch.triu(torch.ones(D, D, dtype=torch.float64), 1)

Options = dict[str, Any]
Case = tuple[type[LinearSolver], Tensor, Callable[[Tensor, Tensor, Tensor, int, Any, float], Any], Tensor]


def cg(a: Tensor, b: Tensor, m: Tensor, k: int, x0: Any, damping: float) -> Any:
    return galerkin(a + damping * EYE, b, m, k, x0)


def minres(a: Tensor, b: Tensor, m: Tensor, k: int, x0: Any, damping: float) -> Any:
    return least(a + damping * EYE, b, m, k, x0, norm=m)


def gmres(a: Tensor, b: Tensor, m: Tensor, k: int, x0: Any, damping: float) -> Any:
    return least(a + damping * EYE, b, m, k, x0)


def normal(a: Tensor, b: Tensor, m: Tensor, k: int, x0: Any, damping: float) -> Any:
    return galerkin(a.T @ a + damping * EYE, a.T @ b, m @ m.T, k, x0)


CASES: list[Case] = [
    (CG, spread(D, 30), cg, M),
    (MINRES, INDEFINITE, minres, M),
    (GMRES, TWISTED, gmres, SKEWED),
    (NormalCG, TWISTED, normal, SKEWED),
]
each = pytest.mark.parametrize("case", CASES, ids=lambda c: c[0].__name__)


@each
@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("damping", [0.0, 0.7])
@pytest.mark.parametrize("steps", range(1, D + 1))
def test_every_iterate_is_the_minimiser(
    case: Case, preconditioned: bool, warm: bool, damping: float, steps: int
) -> None:
    kind, matrix, oracle, m = case
    m = m if preconditioned else EYE
    b, x0 = torch.randn(D), torch.randn(D) if warm else None
    options: Options = {"preconditioner": lambda w: m @ w} if preconditioned else {}
    solver = kind(max_steps=steps, rtol=0.0, damping=damping, **options)  # type: ignore[call-arg]
    x, stats = solve(solver, matrix, b, x0)
    close(x, oracle(matrix, b, m, steps, x0, damping), 1e-9)
    assert stats["linear_steps"] == steps
    damped = matrix if kind is NormalCG else matrix + damping * EYE
    if steps < D:
        residual = (b - damped @ x).norm() / b.norm()
        assert residual > 1e-6
        close(stats["linear_residual"], residual, 1e-7)


@each
@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("rtol", [1e-1, 1e-3, 1e-6])
def test_it_stops_at_the_residual_that_was_asked_for(case: Case, preconditioned: bool, rtol: float) -> None:
    kind = case[0]
    wide = torch.kron(
        torch.eye(4), case[1] + 0.1 * torch.triu(torch.ones(D, D), 1) * (kind in (GMRES, NormalCG))
    )
    matrix, b = wide + torch.diag(torch.linspace(0, 2, len(wide))), torch.randn(len(wide))
    weights = torch.linspace(1, 3, len(wide))
    options: Options = {"preconditioner": weights} if preconditioned else {}

    def after(steps: int, rtol: float = 0.0) -> tuple[Tensor, dict[str, Tensor]]:
        return solve(kind(max_steps=steps, rtol=rtol, **options), matrix, b)  # type: ignore[call-arg]

    x, stats = after(60, rtol)
    steps = int(stats["linear_steps"])
    assert steps > 2
    close(x, after(steps)[0], 1e-9)
    assert (b - matrix @ x).norm() <= rtol * b.norm() * (1 + 1e-9)
    assert (b - matrix @ after(steps - 1)[0]).norm() > rtol * b.norm()


@each
@pytest.mark.parametrize("distinct", [1, 2, 3])
def test_as_many_steps_as_distinct_eigenvalues(case: Case, distinct: int) -> None:
    kind = case[0]
    values = [1.0, 4.0, 9.0][:distinct] * (D // distinct)
    if kind is not CG and distinct == 3:
        values = [-v if v == 4.0 else v for v in values]
    matrix, b = symmetric(*values), torch.randn(D)
    x, stats = solve(kind(max_steps=20, rtol=1e-10), matrix, b)  # type: ignore[call-arg]
    close(x, torch.linalg.solve(matrix, b), 1e-9)
    assert stats["linear_steps"] == distinct
    _, short = solve(kind(max_steps=max(distinct - 1, 1), rtol=1e-10), matrix, b)  # type: ignore[call-arg]
    assert distinct == 1 or short["linear_residual"] > 1e-3


@each
def test_the_inverse_as_preconditioner_needs_one_step(case: Case) -> None:
    kind, matrix, *_ = case
    if kind is MINRES:
        matrix = spread(D, 30)
    inverse = torch.linalg.inv(matrix)
    b = torch.randn(D)
    solver = kind(max_steps=10, rtol=1e-9, preconditioner=lambda w: inverse @ w)  # type: ignore[call-arg]
    x, stats = solve(solver, matrix, b)
    close(x, torch.linalg.solve(matrix, b), 1e-9)
    assert stats["linear_steps"] == 1
    assert solve(kind(max_steps=10, rtol=1e-9), matrix, b)[1]["linear_steps"] > 3  # type: ignore[call-arg]


def test_gmres_restarts_with_the_residual_that_is_left() -> None:
    b, x = torch.randn(D), None
    for _ in range(3):
        x = torch.as_tensor(least(TWISTED, b, EYE, 2, x))
    found, stats = solve(GMRES(max_steps=6, rtol=0.0, restart=2), TWISTED, b)
    close(found, x, 1e-10)
    uneven, _ = solve(GMRES(max_steps=5, rtol=0.0, restart=2), TWISTED, b)
    close(
        uneven,
        least(TWISTED, b, EYE, 1, torch.as_tensor(least(TWISTED, b, EYE, 2, least(TWISTED, b, EYE, 2)))),
        1e-10,
    )
    close(stats["linear_residual"], (b - TWISTED @ found).norm() / b.norm(), 1e-10)
    assert (found - torch.linalg.solve(TWISTED, b)).norm() > 1e-3


@pytest.mark.parametrize("d", [1, 2, 5])
def test_gmres_ends_a_cycle_of_unit_vectors_in_the_last_step(d: int) -> None:
    """A cyclic shift moves nothing into place before step d: all residuals before that are 1."""
    shift = torch.roll(torch.eye(d), 1, 0)
    for steps in range(1, d + 1):
        x, stats = solve(GMRES(max_steps=steps), shift, torch.eye(d)[0])
        assert abs(stats["linear_residual"] - float(steps < d)) < 1e-14
    close(x, shift.T @ torch.eye(d)[0], 1e-14)


def test_gmres_stays_finite_where_the_space_ends_and_nothing_is_solved() -> None:
    nilpotent = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    for b, residual in (([1.0, 0.0], 1.0), ([1.0, 1.0], 0.5**0.5)):
        x, stats = solve(GMRES(max_steps=6), nilpotent, torch.tensor(b))
        assert torch.isfinite(x).all()
        assert abs(stats["linear_residual"] - residual) < 1e-12
    assert stats["linear_steps"] == 2


@pytest.mark.parametrize("rtol", [0.0, 1e-6])
@pytest.mark.parametrize("solver", [MINRES, NormalCG, GMRES], ids=lambda k: k.__name__)
def test_without_a_solution_it_ends_at_the_least_squares(solver: Any, rtol: float) -> None:
    for seed in range(5):
        matrix, b = symmetric(0, 0, -1, 2, 3, 5, seed=seed), torch.randn(D)
        expected = torch.linalg.pinv(matrix, rtol=1e-10) @ b
        x, stats = solve(solver(max_steps=50, rtol=rtol), matrix, b)
        left = (b - matrix @ expected).norm() / b.norm()
        close(stats["linear_residual"], left, 1e-6)
        assert x.norm() < 1e4 * expected.norm()
        assert stats["linear_steps"] < 20


def test_the_basis_is_orthogonal_to_the_end() -> None:
    """Orthogonalised once only, it loses digits with the condition, and the residual with it."""
    for seed in range(5):
        matrix, b = spread(40, 1e7, seed), torch.randn(40)
        x, _ = solve(GMRES(max_steps=40, rtol=0.0), matrix, b)
        assert (b - matrix @ x).norm() < 20 * 2.2e-16 * x.norm()
