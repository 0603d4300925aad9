"""Generalised minimal residuals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from metafunc import options
from metafunc.autodiff import all_true
from metafunc.linear.krylov import Krylov
from metafunc.linear.preconditioner import as_preconditioner, mirrored, prepare
from metafunc.linear.products import Matvec, as_products
from metafunc.linear.recursion import Gap, begin, damped, safe
from metafunc.linear.solver import LinearSolver, check_limits, figures, length
from metafunc.rule import Stats


@dataclass(frozen=True, slots=True, repr=False)
class GMRES(LinearSolver):
    """Minimal residuals for any ``A``, symmetric or not.

    Maths: iterate ``j`` minimises ``||b - A x||`` over ``x0 + M K``, ``K`` the Krylov space of ``r0, A M r0, ...`` of
    dimension ``j`` (a preconditioner from the right leaves the residual that of ``A x = b``); with ``damping`` the
    system is ``(A + damping I) x = b``. With ``restart`` that is so for every ``restart`` steps anew.

    Source: Saad and Schultz 1986. Differs in that the basis is orthogonalised twice (Giraud et al. 2005).

    Exact when: ``max_steps`` is at least the degree of the minimal polynomial of ``A M``, ``d`` at the most. With
    ``restart`` it may stagnate. A singular ``A`` ends the solve early, seen in ``stats["linear_residual"]``.

    Cost: at most ``max_steps`` products, one more with ``x0``; the memory of as many vectors (``restart`` of them).

    Attributes:
        max_steps: The number of products.
        rtol: Relative residual at which a system counts as solved.
        damping: Added to the diagonal of ``A``.
        restart: After how many steps to begin with a new basis. Default: never.
        preconditioner: As for :class:`CG`, but any matrix near ``A^-1`` will do.
        early_exit: Whether the loop ends once all systems are solved; on a GPU the host waits at every step to see.
            ``False`` takes ``max_steps`` products without waiting, to the same result but for rounding.

    Raises:
        ValueError: If an attribute is out of range; at the solve, if the preconditioner does not fit ``b``.
        TypeError: If ``preconditioner`` is none.
    """

    max_steps: int = 10
    rtol: float = 1e-6
    damping: float = 0.0
    restart: int | None = None
    preconditioner: Any = None
    early_exit: bool = True

    def __post_init__(self) -> None:
        check_limits(self.max_steps, self.rtol, self.damping, self.early_exit)
        options.integer("restart", self.restart, 20, optional=True)
        object.__setattr__(self, "preconditioner", as_preconditioner(self.preconditioner))

    @property
    def transposed(self) -> GMRES:
        """See :class:`LinearSolver`."""
        return replace(self, preconditioner=mirrored(self.preconditioner))

    def solve(self, matvec: Matvec, b: Tensor, x0: Tensor | None = None) -> tuple[Tensor, Stats]:
        """See :class:`GMRES`."""
        products = as_products(matvec, b)
        precondition = prepare(self.preconditioner, products, b, self.damping)
        products = damped(products, self.damping)
        start = begin(products, b, x0)
        gap, x, r = Gap.at(start), start.x, start.r
        steps, broken = torch.zeros_like(start.size), ~start.sound
        active = start.unsolved(self.rtol)
        every = self.restart or self.max_steps
        for done in range(0, self.max_steps, every):
            if self.early_exit and all_true(~active):
                break
            beta = length(r)
            space = Krylov(r / safe(beta, active), beta, active, gap)
            for _ in range(min(every, self.max_steps - done)):
                if self.early_exit and all_true(~space.active):
                    break
                steps = steps + space.active.to(steps.dtype)
                z = precondition(space.basis[-1])
                _orthogonalize(space, z, products(z), self.rtol)
            step, left = space.solution()
            step = precondition(step)
            fit = torch.isfinite(step).all()
            broken = broken | space.broken | (active & ~fit)
            x, r = torch.where(active & fit, x + step, x), torch.where(active & fit, left, r)
            gap.iterate(x)
            active = active & ~broken & ~space.ended & gap.unsolved(r, self.rtol)
        x, lost = start.finish(x)
        return x, figures(steps, length(r) + gap.value, breakdown=broken | lost)


def _orthogonalize(space: Krylov, z: Tensor, az: Tensor, rtol: float) -> None:
    """Arnoldi's step: the next basis vector from ``az = A z``, made orthogonal to all others twice."""
    size = length(az)
    fit = torch.isfinite(size)
    space.broken, space.active = space.broken | (space.active & ~fit), space.active & fit
    space.gap.product(space.active, length(z), size)
    space.largest = torch.where(space.active, torch.maximum(space.largest, size), space.largest)
    v = torch.stack(space.basis)
    w = torch.where(space.active, az, torch.zeros_like(az))
    h = v @ w
    w = w - v.T @ h
    again = v @ w
    w, h = w - v.T @ again, h + again
    below = length(w)
    space.grow(h, w, below, below <= 10 * space.gap.eps * space.largest, rtol)
