"""Products and their transposes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from metafunc.linear import Direct, LinearSolver, NormalCG, Products, System, solve
from metafunc.rule import Stats
from tests.linear.systems import symmetric
from tests.tasks import close

D = 4
MATRIX = symmetric(1, 3, 6, 10) + torch.triu(torch.ones(D, D, dtype=torch.float64))


def test_products_know_their_transpose() -> None:
    seen: list[Products] = []

    class Spy(LinearSolver):
        __slots__ = ()

        def solve(self, matvec: Any, b: Tensor, x0: Tensor | None = None) -> tuple[Tensor, Stats]:
            seen.append(matvec)
            return Direct().solve(matvec, b, x0)

        def __repr__(self) -> str:
            return "Spy"

    a, w = MATRIX, torch.randn(D)
    solve(System(lambda a: lambda w: a @ w, lambda a: lambda w: a.T @ w, Spy()), a, w)
    (products,) = seen
    close(products(w), a @ w, 1e-14)
    close(products.transposed(w), a.T @ w, 1e-14)
    close(products.transposed.transposed(w), a @ w, 1e-14)
    assert torch.equal(products.unravel(w), w)
    # A bare function is transposed by its own pull-back, under vmap too.
    solver = NormalCG(max_steps=20, rtol=1e-12)
    b = torch.randn(3, D)
    close(vmap(lambda b: solver.solve(lambda w: a @ w, b)[0])(b), torch.linalg.solve(a, b.T).T, 1e-9)
