"""Other people's functions as solvers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from metafunc.linear import as_solver
from tests.linear.systems import symmetric

D = 4
BASE = symmetric(1, 3, 6, 10)


def test_a_function_as_a_solver() -> None:
    got: list[Any] = []

    def start_taker(matvec: Any, b: Tensor, init: Tensor | None = None) -> Tensor:
        got.append(init)
        return b / matvec(torch.ones_like(b))

    b, x0 = torch.ones(3), torch.full((3,), 7.0)
    x, stats = as_solver(start_taker).solve(lambda w: 2 * w, b, x0)
    assert torch.equal(got[-1], x0)
    assert stats["linear_residual"] == 0
    as_solver(start_taker).solve(lambda w: 2 * w, b)
    assert got[-1] is None
    as_solver(lambda matvec, b: b).solve(lambda w: 2 * w, b, x0)
    assert repr(as_solver(start_taker)) == "start_taker"
    x, stats = as_solver(start_taker).solve(lambda w: 0 * w, b)
    assert torch.equal(x, torch.zeros(3))
    assert stats["breakdown"]
    assert stats["linear_residual"] == 1

    def divides(matvec: Any, b: Tensor) -> Tensor:
        return b * (1 / 0)

    with pytest.raises(ZeroDivisionError):
        as_solver(divides).solve(lambda w: w, b)


def test_torchopt_takes_a_start() -> None:
    torchopt = pytest.importorskip("torchopt")
    solver = as_solver(torchopt.linear_solve.solve_cg(maxiter=1))
    b = torch.randn(D)
    solution = torch.linalg.solve(BASE, b)
    cold = solver.solve(lambda w: BASE @ w, b)[1]
    warm = solver.solve(lambda w: BASE @ w, b, solution + 1e-6)[1]
    assert warm["linear_residual"] < 1e-4 < 1e-2 < cold["linear_residual"]
