"""The dense solver: regular, or flagged; the pseudo-inverse."""

from __future__ import annotations

import pytest
import torch

from metafunc.linear import Direct
from tests.linear.systems import D, flags, solve, spread, symmetric
from tests.tasks import close

NONSYMMETRIC = symmetric(1, 2, 3, 4, 5, 6) + torch.triu(torch.ones(D, D, dtype=torch.float64))


def test_it_is_the_inverse_and_costs_as_many_products_as_there_are_unknowns() -> None:
    b = torch.randn(D)
    x, stats = solve(Direct(), NONSYMMETRIC, b)
    close(x, torch.linalg.solve(NONSYMMETRIC, b), 1e-13)
    assert stats["linear_steps"] == D
    close(
        solve(Direct(damping=2.0), NONSYMMETRIC, b)[0],
        torch.linalg.solve(NONSYMMETRIC + 2 * torch.eye(D), b),
        1e-13,
    )


@pytest.mark.parametrize("least", [0.0, 1e-17, -1e-17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_to_working_precision_is_flagged(least: float, dtype: torch.dtype) -> None:
    for seed in range(5):
        matrix = symmetric(least, 1, 2, 3, seed=seed).to(dtype)
        for b in (torch.randn(4), matrix @ torch.randn(4).to(dtype)):
            x, stats = solve(Direct(), matrix, b.to(dtype))
            assert stats["breakdown"]
            assert torch.equal(x, torch.zeros(4, dtype=dtype))
            assert stats["linear_residual"] == 1
    assert not solve(Direct(), spread(D, 1e12), torch.randn(D))[1]["breakdown"]


def test_damping_makes_a_singular_matrix_regular() -> None:
    matrix, b = symmetric(0, 1, 2, 3), torch.randn(4)
    x, stats = solve(Direct(damping=0.5), matrix, b)
    close(x, torch.linalg.solve(matrix + 0.5 * torch.eye(4), b), 1e-13)
    assert not flags(stats)


def test_the_pseudo_inverse() -> None:
    matrix, b = symmetric(0, 1e-6, 1, 2, 3), torch.randn(5)
    for rcond, dropped in ((0.0, 1), (1e-8, 1), (1e-3, 2), (0.5, 3)):
        x, stats = solve(Direct(rcond=rcond), matrix, b)
        values, vectors = torch.linalg.eigh(matrix)
        kept = vectors[:, dropped:]
        close(x, kept @ ((kept.T @ b) / values[dropped:]), 1e-9)
        assert not stats["breakdown"]
        close(stats["linear_residual"], (b - matrix @ x).norm() / b.norm(), 1e-9)
    # The same of a matrix that is not symmetric.
    low = NONSYMMETRIC @ torch.diag(torch.tensor([0.0, 1, 1, 1, 1, 1]))
    b = torch.randn(D)
    close(solve(Direct(rcond=1e-10), low, b)[0], torch.linalg.pinv(low) @ b, 1e-11)
    assert torch.equal(solve(Direct(rcond=1e-10), 0 * low, b)[0], 0 * b)


def test_products_that_torch_cannot_batch_are_formed_one_by_one() -> None:
    b = torch.randn(D)

    def products(w: torch.Tensor) -> torch.Tensor:
        if torch._C._functorch.is_batchedtensor(w):
            raise RuntimeError("no batching rule, says vmap")
        return NONSYMMETRIC @ w

    close(Direct().solve(products, b)[0], torch.linalg.solve(NONSYMMETRIC, b), 1e-13)

    def broken(w: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        Direct().solve(broken, b)
