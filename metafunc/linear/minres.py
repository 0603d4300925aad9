"""Minimal residuals for symmetric matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metafunc.autodiff import all_true
from metafunc.linear.krylov import Krylov
from metafunc.linear.preconditioner import as_preconditioner, prepare
from metafunc.linear.products import Matvec, as_products
from metafunc.linear.recursion import Gap, Symmetry, begin, damped, safe
from metafunc.linear.solver import LinearSolver, check_limits, figures, length
from metafunc.rule import Stats


@dataclass(frozen=True, slots=True, repr=False)
class MINRES(LinearSolver):
    """Minimal residuals for a symmetric ``A``, definite or not: for an inner solve that ended near a saddle.

    Maths: iterate ``j`` minimises ``r^T M r`` (``||r||`` without preconditioner) over ``x0`` and the Krylov space of
    ``M r0, M A M r0, ...`` of dimension ``j``; with ``damping`` the system is ``(A + damping I) x = b``.

    Source: Paige and Saunders 1975; preconditioned as in Elman, Silvester and Wathen 2014, section 4.1. Differs in that
    the Lanczos vectors are kept: the short recurrences for ``x`` lose up to ``cond(A)`` times as much to rounding
    (Sleijpen, van der Vorst and Modersitzki 2000), ten times in single precision at a condition of 1e4.

    Exact when: ``max_steps`` is at least the number of distinct eigenvalues of ``M A`` that ``r0`` has a part in. For a
    singular ``A`` the solve ends at the least squares, seen in ``stats["linear_residual"]`` unless ``b`` is in range.

    Cost: at most ``max_steps`` products, one more with ``x0``, and the memory of as many vectors; solved systems stay
    as they are, as in :class:`CG`.

    Attributes:
        max_steps: The number of products.
        rtol: Relative residual at which a system counts as solved.
        damping: Added to the diagonal of ``A``.
        preconditioner: As for :class:`CG`: symmetric positive definite, even where ``A`` is not.
        early_exit: Whether the loop ends once all systems are solved; on a GPU the host waits at every step to see.
            ``False`` takes ``max_steps`` products without waiting, to the same result but for rounding.

    Raises:
        ValueError: If an attribute is out of range; at the solve, if the preconditioner does not fit ``b``.
        TypeError: If ``preconditioner`` is none.
    """

    max_steps: int = 10
    rtol: float = 1e-6
    damping: float = 0.0
    preconditioner: Any = None
    early_exit: bool = True

    def __post_init__(self) -> None:
        check_limits(self.max_steps, self.rtol, self.damping, self.early_exit)
        object.__setattr__(self, "preconditioner", as_preconditioner(self.preconditioner))

    @property
    def symmetric_only(self) -> bool:
        """MINRES is wrong for a nonsymmetric matrix."""
        return True

    def solve(self, matvec: Matvec, b: Tensor, x0: Tensor | None = None) -> tuple[Tensor, Stats]:
        """See :class:`MINRES`."""
        products = as_products(matvec, b)
        precondition = prepare(self.preconditioner, products, b, self.damping)
        products = damped(products, self.damping)
        start = begin(products, b, x0)
        gap, symmetry = Gap.at(start), Symmetry.of(b)
        active, steps = start.unsolved(self.rtol), torch.zeros_like(start.size)
        z = precondition(start.r)
        inner = start.r @ z
        fit = (inner > 0) & torch.isfinite(inner)
        broken, active = ~start.sound | (active & ~fit), active & fit
        gamma = safe(inner, active).sqrt()
        space = Krylov(start.r / gamma, gamma, active, gap)
        z = z / gamma
        for _ in range(self.max_steps):
            if self.early_exit and all_true(~space.active):
                break
            steps = steps + space.active.to(steps.dtype)
            az = products(z)
            norms, active = (length(z), length(az)), space.active
            finite = torch.isfinite(norms[1])
            gap.product(active & finite, *norms)
            symmetry.see(active, z, az, norms, gap.gain)
            delta, v = z @ az, space.basis[-1]
            w = az - delta * v - (gamma * space.basis[-2] if len(space.basis) > 1 else 0.0)
            mw = precondition(w)
            inner = w @ mw
            # The inner product of a vector that has rounded to nothing may have either sign.
            ended = length(w) <= 10 * gap.eps * torch.maximum(norms[1], gap.gain * norms[0])
            fit = finite & torch.isfinite(delta + inner) & (ended | (inner > 0))
            space.broken, active = space.broken | (active & ~fit), active & fit
            below = torch.where(active & ~ended, inner, 0.0).sqrt()
            h = torch.zeros_like(space.null[:-2])
            h = torch.cat([h, *([gamma[None]] if len(space.basis) > 1 else []), delta[None]])
            column = (h @ h + below**2).sqrt()
            space.largest = torch.where(active, torch.maximum(space.largest, column), space.largest)
            # ||A r|| / ||r||, in the norm of M: where that is nothing, r is that of the least squares already.
            slope = ((space.null @ h) ** 2 + (below * space.null[-1]) ** 2).sqrt() / length(space.null)
            space.active = active & (slope > gap.nothing * space.largest)
            space.grow(h, w, below, ended, self.rtol)
            gamma = safe(below, below > 0)
            z = mw / gamma
        step, left = space.solution()
        step = precondition(step)
        fit = torch.isfinite(step).all()
        moved, broken = fit & start.sound, broken | space.broken | ~fit
        x = torch.where(moved, start.x + step, start.x)
        r = torch.where(moved & (space.beta > 0), left, start.r)
        gap.iterate(x)
        x, lost = start.finish(x)
        residual = length(r) + gap.value
        return x, figures(steps, residual, breakdown=broken | lost, asymmetric=symmetry.broken)
