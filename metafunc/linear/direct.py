"""A dense factorisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metafunc import options
from metafunc.linear.products import Matvec, products_with_all, unit_vectors
from metafunc.linear.recursion import begin
from metafunc.linear.solver import LinearSolver, figures, residual_of
from metafunc.rule import Stats

_linalg: Any = torch.linalg  # torch does not type all of it


@dataclass(frozen=True, slots=True, repr=False)
class Direct(LinearSolver):
    """The dense matrix from ``d`` products with unit vectors, and its factorisation: LU, or singular values.

    Maths: ``(A + damping I)^-1 b``; with ``rcond`` the pseudo-inverse, in which singular values below ``rcond`` times
    the largest count as zero.

    Exact when: ``A`` is regular to working precision. If not, ``stats["breakdown"]`` says so and ``x`` is zero; with
    ``rcond``, ``x`` is the shortest of the least-squares solutions, and ``stats["linear_residual"]`` says what is left.

    Bias: with ``rcond`` on a matrix of which something is dropped, derivatives are those within what is kept,
    ``A^+ (b' - A' x)``: they leave out how the kept space turns.

    Cost: ``d`` products, run as one ``vmap``, ``d^2`` memory and ``2 d^3 / 3`` operations (some twenty times as many
    with ``rcond``): for up to a few thousand parameters, and for reference values. A start ``x0`` brings nothing.

    Attributes:
        damping: Added to the diagonal of ``A``.
        rcond: From which singular value on, relative to the largest, a direction is kept. Default: no such cut.

    Raises:
        ValueError: If an attribute is out of range.
    """

    damping: float = 0.0
    rcond: float | None = None

    def __post_init__(self) -> None:
        options.number("damping", self.damping, 0.1)
        options.number("rcond", self.rcond, 1e-6, high=1.0, optional=True)

    def solve(self, matvec: Matvec, b: Tensor, x0: Tensor | None = None) -> tuple[Tensor, Stats]:
        """See :class:`Direct`."""
        units = unit_vectors(b)
        matrix = products_with_all(matvec, units).T + self.damping * units
        start = begin(matvec, b, None)
        # What is not finite is kept from the factorisations: one of them would raise.
        sound = start.sound & torch.isfinite(matrix).all()
        matrix, unit = torch.where(sound, matrix, units), torch.where(sound, start.r, torch.zeros_like(b))
        x, regular = _lu(matrix, unit) if self.rcond is None else _pseudo_inverse(matrix, unit, self.rcond)
        x, lost = start.finish(torch.where(sound & regular, x, torch.zeros_like(x)))
        left = residual_of(lambda w: matrix @ w, b, x)
        broken = ~(sound & regular) | lost
        return x, figures(torch.full_like(left, b.numel()), left, breakdown=broken)


def _lu(matrix: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    # The functions that raise on a singular matrix are no use: raising on data would break under vmap.
    lu, pivots, _ = _linalg.lu_factor_ex(matrix)
    entries: Tensor = lu.diagonal().abs()
    regular = entries.amin() > b.numel() * torch.finfo(b.dtype).eps * entries.amax()
    x: Tensor = _linalg.lu_solve(lu, pivots, b[:, None])[:, 0]
    return x, regular


def _pseudo_inverse(matrix: Tensor, b: Tensor, rcond: float) -> tuple[Tensor, Tensor]:
    u, s, vh = _linalg.svd(matrix)
    # Below rounding there are no singular values, only noise.
    kept = s > max(rcond, b.numel() * torch.finfo(b.dtype).eps) * s.amax()
    inverse = torch.where(kept, 1 / torch.where(kept, s, torch.ones_like(s)), torch.zeros_like(s))
    x: Tensor = vh.T @ (inverse * (u.T @ b))
    return x, torch.ones_like(s.sum(), dtype=torch.bool)
