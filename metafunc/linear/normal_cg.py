"""Conjugate gradients on the normal equations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from metafunc.autodiff import all_true
from metafunc.linear.preconditioner import as_preconditioner, mirrored, prepare
from metafunc.linear.products import Matvec, as_products
from metafunc.linear.recursion import Gap, begin, safe
from metafunc.linear.solver import LinearSolver, check_limits, figures, length
from metafunc.rule import Stats


@dataclass(frozen=True, slots=True, repr=False)
class NormalCG(LinearSolver):
    """Conjugate gradients on ``(A^T A + damping I) x = A^T b``, for any ``A``.

    Maths: the minimiser of ``||b - A x||^2 + damping ||x||^2`` over ``x0`` and the Krylov space of ``M M^T s0, (M M^T
    A^T A) M M^T s0, ...`` with ``s0 = A^T (b - A x0) - damping x0``: Tikhonov's regularisation, least squares without.

    Source: Hestenes and Stiefel 1952, section 10; as CGLS in Paige and Saunders 1982, which recurs ``b - A x``.

    Exact when: ``max_steps`` is at least the number of distinct singular values, and their square does not exceed what
    the precision can hold: the condition is that of ``A`` squared.

    Bias: that of ``damping``, which is added to the *squares* of the singular values. ``linear_residual`` is that of
    ``A x = b`` none the less; derivatives are those of the damped solution.

    Cost: at most ``max_steps`` products with ``A`` and as many with ``A^T``, one more with ``x0``.

    Attributes:
        max_steps: The number of steps.
        rtol: Relative residual at which a system counts as solved; with ``damping``, that of the normal equations.
        damping: Tikhonov's parameter.
        preconditioner: As for :class:`CG`, with any matrix ``M`` near ``A^-1``: the steps use ``M M^T``.
        early_exit: Whether the loop ends once all systems are solved; on a GPU the host waits at every step to see.
            ``False`` takes ``max_steps`` products without waiting, to the same result.

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
    def transposed(self) -> NormalCG:
        """See :class:`LinearSolver`."""
        return replace(self, preconditioner=mirrored(self.preconditioner))

    @property
    def tikhonov(self) -> float:
        """See :class:`LinearSolver`."""
        return self.damping

    def solve(self, matvec: Matvec, b: Tensor, x0: Tensor | None = None) -> tuple[Tensor, Stats]:
        """See :class:`NormalCG`."""
        products = as_products(matvec, b)
        # The damping belongs to A^T A, not to A.
        precondition = prepare(self.preconditioner, products, b, 0.0)
        back, precondition_back = products.transposed, precondition.transposed
        start = begin(products, b, x0)
        gap = Gap.at(start)
        x, r, p = start.x, start.r, torch.zeros_like(b)
        inner, broken = torch.ones_like(start.size), ~start.sound
        steps, first = torch.zeros_like(inner), torch.zeros_like(inner)
        rtol = 0.0 if self.damping else self.rtol
        active = start.unsolved(rtol)
        for j in range(self.max_steps):
            if self.early_exit and all_true(~active):
                break
            s = back(r) - self.damping * x
            ss = s @ s
            first = ss if j == 0 else first
            # Nothing is left to gain where s is what rounding makes of zero; in least squares r itself does not vanish.
            noise = gap.eps * gap.gain * (length(r) + self.damping**0.5 * length(x))
            goal = torch.maximum(noise**2, self.rtol**2 * first if self.damping else 0 * first)
            broken, active = (
                broken | (active & ~torch.isfinite(ss)),
                active & (ss > goal) & torch.isfinite(ss),
            )
            z = precondition(precondition_back(s))
            before, inner = inner, s @ z
            fit = (inner > 0) & torch.isfinite(inner)
            broken, active = broken | (active & ~fit), active & fit
            p = torch.where(active, z + (inner / safe(before, active)) * p, p)
            ap, pp = products(p), p @ p
            apap = ap @ ap
            fit = torch.isfinite(apap)
            steps = steps + active.to(steps.dtype)
            broken, active = broken | (active & ~fit), active & fit
            gap.product(active, pp.sqrt(), apap.sqrt())
            curvature = apap + self.damping * pp
            active = active & (curvature > (gap.eps * gap.gain) ** 2 * pp)
            alpha = torch.where(active, inner / safe(curvature, active), 0.0)
            x = torch.where(active, x + alpha * p, x)
            r = torch.where(active, r - alpha * ap, r)
            gap.iterate(x)
            active = active & gap.unsolved(r, rtol)
        x, lost = start.finish(x)
        return x, figures(steps, length(r) + gap.value, breakdown=broken | lost)
