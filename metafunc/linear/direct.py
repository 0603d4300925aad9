"""A dense factorisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
        # Adding zeros like b makes the unit vectors as batched as b is: a product with a vector that is not, inside a
        # vmap, fails in torch for convolutions.
        units = torch.eye(b.numel(), dtype=b.dtype, device=b.device) + torch.zeros_like(b)
        columns = _columns(matvec, units)
        # solve_ex does not raise on a singular matrix: raising on data would break under vmap.
        solve_ex: Any = getattr(torch.linalg, "solve_ex")  # noqa: B009  (torch does not type it)
        x: Tensor = solve_ex(columns.T, b)[0]
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
