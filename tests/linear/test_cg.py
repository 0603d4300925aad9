"""Conjugate gradients: when they stop, negative curvature and who takes over there."""

from __future__ import annotations

import pytest
import torch
from torch.func import vmap

from metafunc.linear import CG, GMRES, MINRES, LinearSolver
from tests.linear.systems import D, flags, solve, spread, symmetric
from tests.tasks import close

INDEFINITE = symmetric(-3, -1, 1, 2, 3, 5)


@pytest.mark.parametrize("rtol", [0.0, 1e-6])
def test_it_stops_early_and_stays_there(rtol: float) -> None:
    """Two distinct eigenvalues need two steps; the other 38 must neither move the iterate nor divide by zero."""
    matrix, b = torch.diag(torch.tensor([1.0, 1.0, 4.0, 4.0])), torch.randn(4)
    x, stats = solve(CG(max_steps=40, rtol=rtol), matrix, b)
    close(x, torch.linalg.solve(matrix, b), 1e-14)
    if rtol:
        assert stats["linear_steps"] == 2


def test_negative_curvature_is_flagged_and_what_was_found_is_kept() -> None:
    matrix, b = torch.diag(torch.tensor([3.0, 2.0, -1.0])), torch.tensor([1.0, 1.0, 0.1])
    x, stats = solve(CG(max_steps=10), matrix, b)
    assert stats["negative_curvature"]
    steps = int(stats["linear_steps"])
    kept, _ = solve(CG(max_steps=steps - 1), matrix, b)
    assert torch.equal(x, kept)
    assert x.norm() > 0
    assert stats["least_curvature"] < 0
    assert not stats["handed_over"]


@pytest.mark.parametrize("entry", [1.0, 0.0], ids=["swap", "zero"])
def test_a_direction_without_curvature(entry: float) -> None:
    """p'Ap = 0 exactly, where others divide by zero."""
    matrix = torch.tensor([[0.0, entry], [entry, 0.0]])
    x, stats = solve(CG(max_steps=5), matrix, torch.tensor([1.0, 0.0]))
    assert stats["negative_curvature"]
    assert torch.equal(x, torch.zeros(2))


@pytest.mark.parametrize("noise", [1e-17, -1e-17])
def test_curvature_that_rounding_could_have_made_is_none(noise: float) -> None:
    """A singular matrix that rounding made regular: a step along its kernel would be of length 1e17."""
    x, stats = solve(CG(max_steps=5), torch.diag(torch.tensor([1.0, 2.0, noise])), torch.ones(3))
    assert stats["negative_curvature"]
    assert x.norm() < 10


def test_least_curvature_is_that_of_the_matrix_without_damping() -> None:
    matrix, b = spread(D, 30), torch.randn(D)
    least = torch.linalg.eigvalsh(matrix)[0]
    for damping in (0.0, 2.0):
        _, stats = solve(CG(max_steps=20, rtol=1e-12, damping=damping), matrix, b)
        assert least * (1 - 1e-6) <= stats["least_curvature"] < 10 * least
    _, stats = solve(CG(), 3 * torch.eye(D), b)
    close(stats["least_curvature"], 3.0, 1e-14)
    _, stats = solve(CG(), matrix, 0 * b)
    assert stats["least_curvature"] == float("inf")


def test_damping() -> None:
    matrix, b = 10 * spread(D, 100), torch.randn(D)
    x, stats = solve(CG(max_steps=30, rtol=1e-12, damping=2.0), matrix, b)
    close(x, torch.linalg.solve(matrix + 2 * torch.eye(D), b), 1e-9)
    assert stats["linear_residual"] < 1e-11
    # Enough of it, and an indefinite matrix is none any more.
    x, stats = solve(CG(max_steps=30, rtol=1e-12, damping=4.0), INDEFINITE, b)
    close(x, torch.linalg.solve(INDEFINITE + 4 * torch.eye(D), b), 1e-9)
    assert not flags(stats)


def test_a_fallback_with_damping_takes_over_system_by_system() -> None:
    b = torch.randn(2, D)
    good = spread(D, 30)
    fallback = CG(max_steps=30, rtol=1e-12, damping=4.0)
    solver = CG(max_steps=30, rtol=1e-12, fallback=fallback)
    x, stats = vmap(lambda m, r: solver.solve(lambda w: m @ w, r))(torch.stack([good, INDEFINITE]), b)
    close(x[0], torch.linalg.solve(good, b[0]), 1e-9)
    close(x[1], torch.linalg.solve(INDEFINITE + 4 * torch.eye(D), b[1]), 1e-9)
    assert stats["handed_over"].tolist() == [False, True]
    assert stats["negative_curvature"].tolist() == [False, False]
    assert (stats["linear_residual"] < 1e-11).all()
    own = [solve(CG(max_steps=30, rtol=1e-12), m, r)[1] for m, r in ((good, b[0]), (INDEFINITE, b[1]))]
    theirs = solve(fallback, INDEFINITE, b[1])[1]
    assert stats["linear_steps"][0] == own[0]["linear_steps"]
    assert stats["linear_steps"][1] == own[1]["linear_steps"] + theirs["linear_steps"]
    close(stats["least_curvature"][1], own[1]["least_curvature"], 1e-12)
    assert stats["least_curvature"][1] < 0


@pytest.mark.parametrize(
    "fallback", [MINRES(max_steps=20, rtol=1e-12), GMRES(max_steps=20, rtol=1e-12)], ids=repr
)
def test_a_fallback_that_can_do_without_curvature(fallback: LinearSolver) -> None:
    b = torch.randn(D)
    x, stats = solve(CG(max_steps=20, fallback=fallback), INDEFINITE, b, torch.randn(D))
    close(x, torch.linalg.solve(INDEFINITE, b), 1e-9)
    assert stats["handed_over"]
    assert not flags(stats)


def test_a_fallback_may_fail_too_and_says_so() -> None:
    b = torch.randn(D)
    _, stats = solve(CG(fallback=CG(damping=1e-3)), INDEFINITE, b)
    assert stats["handed_over"]
    assert stats["negative_curvature"]
    # CG meets the negative curvature in a direction where a second one with more damping still meets it, a third does not.
    nested = CG(max_steps=20, fallback=CG(damping=1e-3, fallback=CG(max_steps=20, rtol=1e-12, damping=4.0)))
    x, stats = solve(nested, INDEFINITE, b)
    close(x, torch.linalg.solve(INDEFINITE + 4 * torch.eye(D), b), 1e-9)
    assert not flags(stats)


def test_a_fallback_is_a_solver() -> None:
    with pytest.raises(
        TypeError, match=r"fallback: expected a linear solver such as CG\(damping=1.0\) or MINRES\(\)"
    ):
        CG(fallback="damp")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"fallback: expected .* got the class MINRES"):
        CG(fallback=MINRES)  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", [CG(max_steps=8, rtol=1e-3), MINRES(max_steps=8, rtol=1e-3)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_matrix_that_is_not_symmetric_is_seen(solver: LinearSolver, dtype: torch.dtype) -> None:
    found, clean = [], []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        skew = torch.randn(D, D, generator=generator, dtype=torch.float64)
        b = torch.randn(D, generator=generator, dtype=torch.float64).to(dtype)
        for size, into in ((0.3, found), (0.0, clean)):
            matrix = spread(D, 1e4, seed) + size * (skew - skew.T)
            into.append(bool(solve(solver, matrix.to(dtype), b)[1]["asymmetric"]))
    assert all(found)
    assert not any(clean)


@pytest.mark.parametrize("solver", [CG(), MINRES()], ids=repr)
def test_the_noise_of_differences_is_not_taken_for_asymmetry(solver: LinearSolver) -> None:
    skew, b = torch.triu(torch.ones(D, D)), torch.randn(D)
    noise = 0.1 * torch.finfo(torch.float64).eps ** 0.5 * (skew - skew.T)
    assert not solve(solver, spread(D, 30) + noise, b)[1]["asymmetric"]
    assert solve(solver, spread(D, 30) + 1e5 * noise, b)[1]["asymmetric"]


@pytest.mark.parametrize("solver", [CG(max_steps=1), MINRES(max_steps=1)], ids=repr)
def test_one_step_sees_no_symmetry(solver: LinearSolver) -> None:
    assert not solve(solver, torch.tensor([[2.0, 1.0], [-1.0, 2.0]]), torch.ones(2))[1]["asymmetric"]


@pytest.mark.parametrize("solver", [CG, MINRES])
def test_a_preconditioner_that_is_not_positive_is_flagged(solver: type[CG | MINRES]) -> None:
    matrix, b = spread(D, 30), torch.randn(D)
    x, stats = solve(solver(preconditioner=lambda w: -w), matrix, b)
    assert stats["breakdown"]
    assert torch.equal(x, torch.zeros(D))
    some = torch.ones(D)
    some[0] = -1
    _, stats = solve(solver(max_steps=20, preconditioner=some), matrix, b)
    assert flags(stats)
    _, stats = solve(solver(preconditioner=lambda w: w * float("nan")), matrix, b)
    assert stats["breakdown"]
