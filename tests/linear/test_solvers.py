"""Laws of all linear solvers: right, or flagged; never NaN, never silent; a batch is as its members are alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import vmap

import metafunc as mf
from metafunc.linear import CG, GMRES, MINRES, Direct, LinearSolver, Neumann, NormalCG, as_solver
from tests.linear.systems import FULL, SOLVERS, D, flags, solve, spread, symmetric
from tests.tasks import close

SYSTEMS = {
    "identity": torch.eye(D, dtype=torch.float64),
    "diagonal": torch.diag(torch.arange(1.0, D + 1, dtype=torch.float64)),
    "kappa 1e2": 10 * spread(D, 1e2),
    "kappa 1e6": 10 * spread(D, 1e6),
    "indefinite": symmetric(-3, -1, 1, 2, 3, 5),
    "singular": symmetric(0, 0, 1, 2, 3, 5),
    "inconsistent": symmetric(0, 0, 1, 2, 3, 5),
    "zero": torch.zeros(D, D, dtype=torch.float64),
    "nonsymmetric": torch.triu(torch.ones(D, D, dtype=torch.float64)) + torch.eye(D, dtype=torch.float64),
    "zero b": 10 * spread(D, 1e2),
    "tiny b": torch.diag(torch.arange(1.0, D + 1, dtype=torch.float64)),
    "NaN": torch.full((D, D), float("nan"), dtype=torch.float64),
    "infinite b": torch.eye(D, dtype=torch.float64),
}
HOPELESS = {"inconsistent", "zero", "NaN", "infinite b"}
CANNOT: dict[type[LinearSolver], set[str]] = {
    CG: {"indefinite", "nonsymmetric"},
    MINRES: {"nonsymmetric"},
    Neumann: {"kappa 1e2", "kappa 1e6", "indefinite"},
    Direct: {"singular"},
}
"""What a solver cannot do in these steps, and must say so; what is left it must solve."""


def right_hand_side(name: str, matrix: Tensor) -> Tensor:
    b = torch.linspace(-1, 2, D, dtype=torch.float64) ** 2
    factor = {"zero b": 0.0, "tiny b": 1e-200, "infinite b": float("inf")}.get(name, 1.0)
    return matrix @ b if name == "singular" else factor * b


def expected_flags(solver: LinearSolver) -> set[str]:
    found = HOPELESS | CANNOT.get(type(solver), set())
    if isinstance(solver, Direct) and solver.rcond:
        found = found - {"singular"}
    if isinstance(solver, GMRES) and solver.restart:
        found = found | {"kappa 1e6"}
    return found


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_right_or_flagged(solver: LinearSolver, name: str) -> None:
    matrix = SYSTEMS[name]
    b = right_hand_side(name, matrix)
    x, stats = solve(solver, matrix, b)
    assert torch.isfinite(x).all()
    assert set(stats) >= {"linear_steps", "linear_residual", "negative_curvature", "breakdown", "asymmetric"}
    assert all(figure.shape == () for figure in stats.values())
    assert bool(flags(stats)) == (name in expected_flags(solver)), stats
    if flags(stats):
        return
    if name == "zero b":
        assert torch.equal(x, b)
        assert stats["linear_residual"] == 0
    elif name == "tiny b":
        close(x * 1e200, torch.linalg.solve(matrix, b * 1e200), 1e-10)
    else:
        # The theorem that makes a residual worth reporting: its error is at most the condition times that.
        inverse = torch.linalg.pinv(matrix, rtol=1e-10)
        condition = float(torch.linalg.matrix_norm(matrix, 2) * torch.linalg.matrix_norm(inverse, 2))
        close(x, inverse @ b, 2 * condition * max(float(stats["linear_residual"]), 1e-15))


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_batch_of_mixed_systems_is_masked_system_by_system(solver: LinearSolver) -> None:
    matrices = torch.stack(list(SYSTEMS.values()))
    b = torch.stack([right_hand_side(name, matrix) for name, matrix in SYSTEMS.items()])
    x, stats = vmap(lambda m, r: solver.solve(lambda w: m @ w, r))(matrices, b)
    for i, name in enumerate(SYSTEMS):
        alone, figures = solve(solver, matrices[i], b[i])
        if not flags(figures) and b[i].any():
            close(x[i] / b[i].abs().max(), alone / b[i].abs().max(), 1e-6)
        assert torch.isfinite(x[i]).all()
        assert flags({k: v[i] for k, v in stats.items()}) == flags(figures), name


LOOKING = [*SOLVERS[:5], CG(**FULL, fallback=MINRES(**FULL)), NormalCG(**FULL, damping=0.1)]
"""Those that end early once all systems are done."""


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("solver", LOOKING, ids=repr)
def test_what_goes_on_after_all_is_done_changes_nothing(solver: Any, name: str) -> None:
    """Some of the systems are done long before the last step. A Krylov space in zero columns rounds otherwise."""
    rounding = 0.0 if isinstance(solver, NormalCG) or solver == CG(**FULL) else 1e-9
    matrix, going_on = SYSTEMS[name], replace(solver, early_exit=False)
    b = right_hand_side(name, matrix)
    for x0 in (
        None,
        torch.ones_like(b),
        torch.linalg.pinv(matrix) @ b if torch.isfinite(matrix).all() else None,
    ):
        x, stats = solve(solver, matrix, b, x0)
        y, others = solve(going_on, matrix, b, x0)
        assert (y - x).norm() <= rounding * x.norm()
        assert stats.keys() == others.keys()
        for figure, value in stats.items():
            close_by = {"rtol": rounding, "atol": 1e-3 * rounding}
            torch.testing.assert_close(others[figure], value, **close_by, equal_nan=True)


@pytest.mark.parametrize("solver", LOOKING, ids=repr)
def test_an_early_exit_saves_products(solver: Any) -> None:
    counts = [0, 0]

    def products(w: Tensor, k: int) -> Tensor:
        counts[k] += 1
        return 2 * w

    for k, early_exit in enumerate((True, False)):
        replace(solver, early_exit=early_exit).solve(lambda w, k=k: products(w, k), torch.ones(D))
    assert counts[0] < counts[1]


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_scalar_system(solver: LinearSolver) -> None:
    x, stats = solve(solver, torch.tensor([[3.0]]), torch.tensor([2.0]))
    close(x, [2 / 3], 1e-14)
    assert not flags(stats)
    assert stats["linear_steps"] == 1 or isinstance(solver, Neumann)
    x, stats = solve(solver, torch.tensor([[0.0]]), torch.tensor([2.0]))
    assert torch.equal(x, torch.zeros(1)) or isinstance(solver, Neumann)
    assert flags(stats)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_right_hand_side_without_a_part_in_the_range(solver: LinearSolver) -> None:
    x, stats = solve(solver, torch.diag(torch.tensor([1.0, 0.0])), torch.tensor([0.0, 1.0]))
    assert torch.isfinite(x).all()
    close(stats["linear_residual"], 1.0, 1e-8)
    _, stats = vmap(lambda b: solve(solver, torch.diag(torch.tensor([1.0, 0.0])), b))(torch.eye(2))
    assert stats["linear_residual"][1] > 0.5


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_the_units_of_the_system_do_not_matter(solver: LinearSolver) -> None:
    matrix, b = 10 * spread(D, 30), torch.randn(D)
    x, stats = solve(solver, matrix, b)
    for unit in (1e-150, 1e150):
        y, others = solve(solver, matrix, unit * b)
        close(y / unit, x, 1e-12)
        close(others["linear_steps"], stats["linear_steps"], 0.0)
        if not isinstance(solver, Neumann):
            y, others = solve(solver, unit**0.3 * matrix, b)
            close(y * unit**0.3, x, 1e-8)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_warm_start(solver: LinearSolver) -> None:
    matrix, b = 10 * spread(D, 30), torch.randn(D)
    solution = torch.linalg.solve(matrix, b)
    count = [0]

    def products(w: Tensor) -> Tensor:
        count[0] += 1
        return matrix @ w

    solver.solve(products, b)
    cold = count[0]
    x, stats = solver.solve(products, b, solution)
    close(x, solution, 1e-10)
    if not isinstance(solver, Direct):
        warm = count[0] - cold
        # No product once all is done; to find the transpose of a bare function takes one.
        assert warm == (cold + 1 if isinstance(solver, Neumann) else 2 if isinstance(solver, NormalCG) else 1)
        assert stats["linear_steps"] == 0 or isinstance(solver, Neumann)
    close(solver.solve(products, b, torch.randn(D))[0], solution, 1e-8)
    # What is no start is none: a system without right-hand side is solved by zero, and NaN is nowhere near anything.
    assert torch.equal(solver.solve(products, 0 * b, solution)[0], 0 * b)
    x, stats = solver.solve(products, b, solution * float("nan"))
    close(x, solution, 1e-8)
    assert not flags(stats)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_single_precision(solver: LinearSolver) -> None:
    matrix, b = (10 * spread(D, 30)).float(), torch.randn(D).float()
    x, stats = solve(solver, matrix, b)
    assert x.dtype == torch.float32
    assert stats["linear_residual"].dtype == torch.float32
    close(x, torch.linalg.solve(matrix.double(), b.double()), 1e-4)
    assert not flags(stats, 1e-5)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: CG(max_steps=0), "max_steps: expected an integer of at least 1, got 0"),
        (lambda: CG(rtol=2), r"rtol: expected a number in \[0, 1\), got 2"),
        (lambda: CG(damping=-1), "damping: expected a number of at least 0, got -1"),
        (lambda: MINRES(max_steps=True), "max_steps: expected an integer of at least 1, got bool True"),
        (lambda: MINRES(rtol=-0.1), r"rtol: expected a number in \[0, 1\), got -0.1"),
        (lambda: MINRES(damping=float("nan")), "damping: expected a number of at least 0, got nan"),
        (lambda: GMRES(max_steps=0), "max_steps: expected an integer of at least 1, got 0"),
        (lambda: GMRES(damping=float("inf")), "damping: expected a number of at least 0, got inf"),
        (lambda: GMRES(restart=0), "restart: expected None or an integer of at least 1, got 0"),
        (lambda: NormalCG(max_steps=0), "max_steps: expected an integer of at least 1, got 0"),
        (lambda: NormalCG(damping=-1), "damping: expected a number of at least 0, got -1"),
        (lambda: Neumann(max_steps=2.5), "max_steps: expected an integer"),  # type: ignore[arg-type]
        (lambda: Neumann(scale=0), "scale: expected a positive number, got 0"),
        (lambda: Direct(damping=-1), "damping: expected a number of at least 0, got -1"),
        (lambda: Direct(rcond=1.0), r"rcond: expected None or a number in \[0, 1\), got 1.0"),
    ],
)
def test_options_out_of_range(make: Any, text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        make()


def test_a_solver_class_or_a_number_is_no_solver() -> None:
    with pytest.raises(
        TypeError, match=r"solver: expected a linear solver such as CG\(max_steps=5\).*got the class CG"
    ):
        as_solver(CG)
    with pytest.raises(TypeError, match="solver: expected a linear solver"):
        mf.Implicit(5)


def test_what_a_solver_says_of_itself() -> None:
    assert [s.symmetric_only for s in SOLVERS] == [True, True] + [False] * 6
    assert repr(CG()) == "CG()"
    assert repr(GMRES(restart=3)) == "GMRES(restart=3)"
    assert CG(**FULL) == CG(**FULL)
    assert hash(CG(**FULL)) == hash(CG(**FULL))
