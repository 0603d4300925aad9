"""Preconditioners: the same solution in fewer steps, or a clear error before any product."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import vmap

from metafunc import tree
from metafunc.linear import CG, GMRES, MINRES, Diagonal, Jacobi, LinearSolver, NormalCG, Products, System
from metafunc.linear import solve as solve_system
from tests.linear.systems import D, flags, solve, spread, symmetric
from tests.tasks import close

KINDS = [CG, MINRES, GMRES, NormalCG]
DIAGONAL = torch.logspace(-3, 0, D, dtype=torch.float64)
TREE = {"bias": torch.zeros(2, dtype=torch.float64), "weight": torch.zeros(2, 2, dtype=torch.float64)}
each = pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)


@each
@pytest.mark.parametrize(
    "preconditioner", [DIAGONAL, Diagonal(DIAGONAL), Jacobi(), Jacobi(probes=2)], ids=repr
)
@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_a_diagonal_matrix_and_its_diagonal(kind: Any, preconditioner: Any, damping: float) -> None:
    """One step, in place of the six that six distinct eigenvalues need."""
    if kind is NormalCG and damping:
        pytest.skip("its damping belongs to the squares")
    b = torch.randn(D)
    options = {"max_steps": 20, "rtol": 1e-10, "damping": damping}
    x, stats = solve(kind(**options, preconditioner=preconditioner), torch.diag(DIAGONAL), b)
    close(x, b / (DIAGONAL + damping), 1e-9)
    assert stats["linear_steps"] == 1
    assert solve(kind(**options), torch.diag(DIAGONAL), b)[1]["linear_steps"] >= D


def tree_products(matrix: Tensor) -> tuple[Products, Any]:
    _, unravel = tree.ravel(TREE)
    return Products(lambda w: matrix @ w, unravel, None), unravel


@each
def test_trees_like_phi(kind: Any) -> None:
    products, unravel = tree_products(torch.diag(DIAGONAL))
    b = torch.randn(D)
    for given in (unravel(DIAGONAL), lambda w: tree.map(torch.div, w, unravel(DIAGONAL))):
        x, stats = kind(max_steps=20, rtol=1e-10, preconditioner=given).solve(products, b)
        close(x, b / DIAGONAL, 1e-9)
        assert stats["linear_steps"] == 1


def test_jacobi_is_the_diagonal_or_an_unbiased_estimate_of_it() -> None:
    matrix = symmetric(-3, -1, 1, 2, 3, 5)
    products, _ = tree_products(matrix)
    b, w = torch.randn(D), torch.randn(D)
    exact = matrix.diagonal().abs()
    close(Jacobi().prepare(products, b, 0.0)(w), w / exact, 1e-13)
    close(Jacobi().prepare(products, b, 2.0)(w), w / (exact + 2), 1e-13)
    one = Jacobi(probes=3, seed=4).prepare(products, b, 0.0)(torch.ones(D))
    signs = torch.from_numpy(np.random.default_rng(4).integers(0, 2, (3, D)) * 2.0 - 1.0)
    close(one, 1 / ((signs * (signs @ matrix)).mean(0).abs()), 1e-12)
    assert not torch.allclose(one, Jacobi(probes=3, seed=5).prepare(products, b, 0.0)(torch.ones(D)))
    many = Jacobi(probes=4000).prepare(products, b, 10.0)(torch.ones(D))
    close(1 / many, exact + 10, 0.02)


def test_jacobi_helps_where_the_scales_differ() -> None:
    scales = torch.diag(torch.logspace(0, 3, D, dtype=torch.float64))
    matrix, b = scales @ spread(D, 3) @ scales, torch.randn(D)
    for probes in (None, 50):
        x, stats = solve(CG(max_steps=60, rtol=1e-10, preconditioner=Jacobi(probes)), matrix, b)
        plain = solve(CG(max_steps=60, rtol=1e-10), matrix, b)[1]
        assert stats["linear_steps"] <= 8 < 9 <= plain["linear_steps"]
        close(x, torch.linalg.solve(matrix, b), 1e-6)


def test_jacobi_under_vmap_is_that_of_every_member() -> None:
    matrices, b = (
        torch.stack([torch.diag(DIAGONAL), torch.diag(DIAGONAL.flip(0)), torch.zeros(D, D)]),
        torch.randn(3, D),
    )
    for jacobi in (Jacobi(), Jacobi(probes=3)):
        solver = CG(max_steps=4, rtol=1e-10, preconditioner=jacobi)
        x, stats = vmap(partial(solve, solver))(matrices, b)
        assert stats["linear_steps"][:2].tolist() == [1, 1]
        close(x[1], b[1] / DIAGONAL.flip(0), 1e-12)
        assert not x[2].any()
        assert stats["breakdown"].tolist() == [False, False, True]


def test_entries_of_the_diagonal_that_are_zero() -> None:
    some = torch.ones(D)
    some[2] = 0
    for kind in KINDS:
        x, stats = solve(kind(preconditioner=some), torch.eye(D), torch.ones(D))
        assert torch.isfinite(x).all()
        assert flags(stats)


@each
def test_what_does_not_fit_is_refused_before_any_product(kind: Any) -> None:
    def never(w: Tensor) -> Tensor:
        raise AssertionError("a product")

    _, unravel = tree.ravel(TREE)
    products, b = Products(never, unravel, lambda: never), torch.randn(D)
    fits = unravel(DIAGONAL)
    nesting = r"expected TreeSpec.*weight.*, got .*give a tree like phi"
    for given, text in (
        (DIAGONAL, f"preconditioner: {nesting}".replace("give", "Give")),
        (
            fits | {"bias": torch.ones(3)},
            r"preconditioner at \['bias'\]: expected float64\[2\].*got float64\[3\]",
        ),
        (fits | {"bias": torch.ones(2).float()}, r"at \['bias'\]: expected float64\[2\].*got float32\[2\]"),
        (lambda w: w["bias"], r"outcome of the preconditioner: expected TreeSpec"),
        (lambda w: w | {"bias": 3}, r"outcome of the preconditioner at \['bias'\]: .*got int 3"),
    ):
        with pytest.raises(ValueError, match=f"(?s){text}"):
            kind(preconditioner=given).solve(products, b, torch.zeros(D))


@pytest.mark.parametrize("given", [3, "jacobi", Jacobi, torch.arange(3), {}])
def test_what_is_no_preconditioner(given: Any) -> None:
    for kind in KINDS:
        with pytest.raises(TypeError, match="preconditioner: expected None, the diagonal of the matrix"):
            kind(preconditioner=given)


def test_probes_out_of_range() -> None:
    with pytest.raises(ValueError, match="probes: expected None or an integer of at least 1, got 0"):
        Jacobi(probes=0)


def test_how_they_print_and_compare() -> None:
    def inverse(w: Tensor) -> Tensor:
        return w

    assert repr(CG(preconditioner=DIAGONAL)) == "CG(preconditioner=Diagonal(float64[6]))"
    assert repr(CG(preconditioner=TREE)) == "CG(preconditioner=Diagonal(float64[2], float64[2, 2]))"
    assert repr(GMRES(preconditioner=inverse)) == "GMRES(preconditioner=inverse)"
    assert repr(GMRES(preconditioner=inverse).transposed) == "GMRES(preconditioner=inverse.transposed)"
    assert GMRES(preconditioner=inverse).transposed.transposed == GMRES(preconditioner=inverse)
    assert repr(CG(preconditioner=Jacobi(probes=3))) == "CG(preconditioner=Jacobi(probes=3))"
    diagonal = Diagonal(DIAGONAL)
    assert CG(preconditioner=diagonal) == CG(preconditioner=diagonal) != CG(preconditioner=Diagonal(DIAGONAL))
    assert len({CG(preconditioner=diagonal), CG(preconditioner=diagonal)}) == 1
    assert CG(preconditioner=diagonal).transposed.preconditioner is diagonal


@pytest.mark.parametrize("kind", [GMRES, NormalCG])
def test_the_transposed_system_keeps_a_preconditioner_that_is_not_symmetric(kind: Any) -> None:
    """With the inverse itself both solves need one step; with its transpose mistaken for it, or without, many."""
    matrix = symmetric(1, 2, 3, 4, 5, 6) + 2 * torch.triu(torch.ones(D, D, dtype=torch.float64), 1)
    inverse = torch.linalg.inv(matrix)
    solver: LinearSolver = kind(max_steps=10, rtol=1e-9, preconditioner=lambda w: inverse @ w)
    system = System(lambda a: lambda w: a @ w, lambda a: lambda w: a.T @ w, solver)
    b, u = torch.randn(D), torch.randn(D)
    (x, stats) = solve_system(system, matrix, b)
    assert stats["linear_steps"] == 1
    needs = (True, True, None)
    bar, stats = system.pullback((matrix, b, None), (x, stats), (u, None), needs)
    assert stats["linear_steps"] == 1
    close(bar[1], inverse.T @ u, 1e-9)
    close(bar[0], -torch.outer(inverse.T @ u, x), 1e-9)
    wrong = solve(solver, matrix.T, u)[1]
    assert wrong["linear_steps"] > 3
