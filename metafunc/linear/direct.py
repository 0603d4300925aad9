"""A dense factorisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metafunc.linear.solver import LinearSolver, Matvec, figures
from metafunc.rule import Stats


@dataclass(frozen=True, slots=True, repr=False)
class Direct(LinearSolver):
    """The dense matrix from ``d`` products with unit vectors, and its LU factorisation.

    Exact when: ``A`` is regular. A singular matrix gives infinities, seen in ``stats["linear_residual"]`` and refused
    by ``mf.check``.

    Cost: ``d`` products, run as one ``vmap``, ``d^2`` memory and ``d^3 / 3`` operations: for up to a few thousand
    parameters, and for reference values.
    """

    def solve(self, matvec: Matvec, b: Tensor) -> tuple[Tensor, Stats]:
        """See :class:`Direct`."""
        columns = _columns(matvec, torch.eye(b.numel(), dtype=b.dtype, device=b.device))
        # solve_ex does not raise on a singular matrix: raising on data would break under vmap.
        x, _ = torch.linalg.solve_ex(columns.T, b)
        return x, figures(torch.full_like(b.sum(), b.numel()), b, b - columns.T @ x)


def _columns(matvec: Matvec, units: Tensor) -> Tensor:
    """The matrix, one column in each row: all at once where torch can batch the product, else one by one.

    (The double backward of a convolution accumulates in place, which torch cannot batch in a cotangent alone.)
    """
    try:
        return torch.func.vmap(matvec)(units)
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
        return torch.stack([matvec(unit) for unit in units])
