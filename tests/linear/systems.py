"""Matrices with known spectra, and dense oracles by numpy: what an iteration must have found after so many steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metafunc.linear import CG, GMRES, MINRES, Direct, LinearSolver, Neumann, NormalCG

D = 6
FULL: dict[str, Any] = {"max_steps": 4 * D, "rtol": 1e-12}
SOLVERS = [
    CG(**FULL),
    MINRES(**FULL),
    GMRES(**FULL),
    GMRES(max_steps=60, rtol=1e-12, restart=4),
    NormalCG(**FULL),
    Neumann(max_steps=1500, scale=0.09),
    Direct(),
    Direct(rcond=1e-10),
]


def symmetric(*eigenvalues: float, seed: int = 0) -> Tensor:
    """A dense symmetric matrix with these eigenvalues."""
    generator = torch.Generator().manual_seed(seed)
    d = len(eigenvalues)
    basis, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    return basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T


def spread(d: int, condition: float, seed: int = 0) -> Tensor:
    """A symmetric positive definite matrix of this condition number, largest eigenvalue 1."""
    return symmetric(*np.logspace(-np.log10(condition), 0, d).tolist(), seed=seed)


def solve(
    solver: LinearSolver, matrix: Tensor, b: Tensor, x0: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """One solve with a dense matrix."""
    return solver.solve(lambda w: matrix @ w, b, x0)


def flags(stats: dict[str, Tensor], enough: float = 1e-8) -> list[str]:
    """What the figures of a solve warn of."""
    found = [name for name, x in stats.items() if x.dtype == torch.bool and x and name != "handed_over"]
    return found + ([] if stats["linear_residual"] <= enough else ["linear_residual"])


def krylov(matrix: np.ndarray, first: np.ndarray, steps: int) -> np.ndarray:
    """An orthonormal basis of the span of ``first, matrix first, ...``."""
    basis = np.zeros((len(first), 0))
    vector = first
    for _ in range(steps):
        for _ in range(2):
            vector = vector - basis @ (basis.T @ vector)
        basis = np.column_stack([basis, vector / np.linalg.norm(vector)])
        vector = matrix @ basis[:, -1]
    return basis


def galerkin(a: Any, b: Any, m: Any, steps: int, x0: Any = None) -> np.ndarray:
    """The minimiser of the error in the norm of the symmetric ``a`` over ``x0`` and the Krylov space of ``m a``."""
    a, b, m = (np.asarray(x) for x in (a, b, m))
    x0 = np.zeros(len(b)) if x0 is None else np.asarray(x0)
    k = krylov(m @ a, m @ (b - a @ x0), steps)
    return x0 + k @ np.linalg.solve(k.T @ a @ k, k.T @ (b - a @ x0))


def least(a: Any, b: Any, m: Any, steps: int, x0: Any = None, norm: Any = None) -> np.ndarray:
    """The minimiser of ``r^T norm r`` over ``x0`` and the Krylov space of ``m a``."""
    a, b, m = (np.asarray(x) for x in (a, b, m))
    x0 = np.zeros(len(b)) if x0 is None else np.asarray(x0)
    k = krylov(m @ a, m @ (b - a @ x0), steps)
    root = np.eye(len(b)) if norm is None else np.linalg.cholesky(np.asarray(norm)).T
    return x0 + k @ np.linalg.lstsq(root @ a @ k, root @ (b - a @ x0), rcond=None)[0]
