"""The small least-squares problem in which GMRES and MINRES find their minimal residual."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metafunc.linear.recursion import Gap, safe
from metafunc.linear.solver import length

_linalg: Any = torch.linalg  # torch does not type all of it


class Krylov:
    """A basis ``V`` of the Krylov space of ``A M`` that grows, and ``H`` with ``A M V_j = V_(j+1) H``.

    Maths: ``x = x0 + M V y`` with the ``y`` that minimises ``||beta e_1 - H y||``; then ``r = V (beta e_1 - H y)``.
    Until then one knows that residual from the ``u`` with ``u^T H = 0`` and ``u_1 = 1``: it is ``beta V u / u^T u``.

    A system that has stopped gets zero vectors, and zero columns in ``H``, whose unknowns are zero.

    Attributes:
        active: Whether the next column is of use.
        broken: Whether something was not finite.
        ended: Whether the space could not grow any more.
        basis: The vectors.
        largest: The largest ``||A M v||``.
        null: The vector ``u``.
    """

    __slots__ = (
        "_columns",
        "_full",
        "_sum",
        "active",
        "basis",
        "beta",
        "broken",
        "ended",
        "gap",
        "largest",
        "null",
    )

    def __init__(self, first: Tensor, beta: Tensor, active: Tensor, gap: Gap) -> None:
        self.active: Tensor = active
        self.gap = gap
        self.broken, self.ended = torch.zeros_like(active), torch.zeros_like(active)
        self.beta = torch.where(active, beta, 0.0)
        self.basis = [torch.where(active, first, torch.zeros_like(first))]
        self.largest = torch.zeros_like(beta)
        self.null, self._sum = torch.ones_like(beta)[None], self.basis[0]
        self._columns: list[Tensor] = []

    def grow(self, h: Tensor, w: Tensor, below: Tensor, ended: Tensor, rtol: float) -> None:
        """Take in the column ``h`` and ``below`` it ``||w||``, where ``w`` is what ``V h`` leaves of ``A M v``."""
        active = self.active
        ended = active & ended
        going = active & ~ended
        column = torch.cat([h, torch.where(going, below, 0.0)[None]])
        self._columns.append(torch.where(active, column, torch.zeros_like(column)))
        following = torch.where(going, w / safe(below, going), torch.zeros_like(w))
        weight = torch.where(going, -(self.null @ h) / safe(below, going), 0.0)
        self.basis.append(following)
        self.null, self._sum = torch.cat([self.null, weight[None]]), self._sum + weight * following
        self.ended = self.ended | ended
        # Below eps there is nothing but rounding.
        goal = max(rtol, self.gap.eps)
        self.active = going & (self.beta * length(self._sum) > goal * (self.null @ self.null))

    def solution(self) -> tuple[Tensor, Tensor]:
        """``V y``, of which ``M`` makes the step, and the residual after it."""
        count = len(self._columns)
        if not count:
            return torch.zeros_like(self.basis[0]), self.beta * self.basis[0]
        h = torch.stack([torch.cat([c, c.new_zeros(count + 1 - len(c))]) for c in self._columns], dim=1)
        right = torch.cat([self.beta[None], torch.zeros_like(h[0])])
        factors: tuple[Tensor, Tensor] = _linalg.qr(h)
        q, upper = factors
        # Where the matrix is singular a column depends on those before, but for rounding: its unknown is zero.
        diagonal = upper.diagonal().abs()
        usable = diagonal > self.gap.nothing * diagonal.amax()
        upper = torch.where(usable[:, None], upper, torch.eye(count, dtype=h.dtype, device=h.device))
        rotated = torch.where(usable, q.T @ right, torch.zeros_like(diagonal))
        y: Tensor = _linalg.solve_triangular(upper, rotated[:, None], upper=True)[:, 0]
        basis = torch.stack(self.basis, dim=1)
        return basis[:, :count] @ y, basis @ (right - h @ y)
