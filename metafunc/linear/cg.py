"""Conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metafunc import options
from metafunc.autodiff import all_true
from metafunc.linear.preconditioner import as_preconditioner, prepare
from metafunc.linear.products import Matvec, as_products
from metafunc.linear.recursion import Gap, Symmetry, begin, damped, safe
from metafunc.linear.solver import LinearSolver, check_limits, figures, length
from metafunc.rule import Stats


@dataclass(frozen=True, slots=True, repr=False)
class CG(LinearSolver):
    """Conjugate gradients for a symmetric positive definite ``A``.

    Maths: iterate ``j`` minimises ``(x - x*)^T A (x - x*)`` over ``x0`` and the Krylov space of ``M r0, M A M r0, ...``
    of dimension ``j``; with ``damping`` the system is ``(A + damping I) x = b``.

    Source: imaml, Algorithm 2 and (7); Hestenes and Stiefel 1952.

    Exact when: ``max_steps`` is at least the number of distinct eigenvalues of ``M A`` that ``r0`` has a part in.

    Cost: at most ``max_steps`` products, one more with ``x0``. A system that has nothing left to do (``||r|| <= rtol
    ||b||``, which includes ``b = 0``) keeps its iterate while others of a batch go on, and nothing is ever divided by
    zero; when all are done the loop ends. With ``fallback`` its cost as well, where any system needs it.

    Negative curvature: a direction with ``p^T A p <= 0``, or positive by no more than rounding explains, ends the
    solve. What was found up to there is kept and ``stats["negative_curvature"]`` says so; or ``fallback`` solves that
    system from the beginning: ``fallback=CG(damping=1.0)`` with damping, ``fallback=MINRES()`` as it is. Then
    ``stats["handed_over"]`` says so, ``linear_steps`` is the sum, and the other figures are those of the fallback.
    Either way ``stats["least_curvature"]`` is the smallest ``p^T A p / p^T p`` that CG met (infinite if none).

    Attributes:
        max_steps: The number of products.
        rtol: Relative residual at which a system counts as solved.
        damping: Added to the diagonal of ``A``.
        preconditioner: ``None``; the diagonal of ``A`` or an approximation, as a tensor or tree like ``phi``;
            ``Jacobi()``; or a linear function of such trees that approximates the inverse. Symmetric positive definite.
        fallback: The solver that takes over at negative curvature.
        early_exit: Whether the loop ends once all systems are solved; on a GPU the host waits at every step to see.
            ``False`` takes ``max_steps`` products without waiting, to the same result, and always runs ``fallback``.

    Raises:
        ValueError: If an attribute is out of range; at the solve, if the preconditioner does not fit ``b``.
        TypeError: If ``preconditioner`` or ``fallback`` is none.
    """

    max_steps: int = 10
    rtol: float = 1e-6
    damping: float = 0.0
    preconditioner: Any = None
    fallback: LinearSolver | None = None
    early_exit: bool = True

    def __post_init__(self) -> None:
        check_limits(self.max_steps, self.rtol, self.damping, self.early_exit)
        object.__setattr__(self, "preconditioner", as_preconditioner(self.preconditioner))
        expected = "a linear solver such as CG(damping=1.0) or MINRES()"
        options.instance("fallback", self.fallback, LinearSolver, expected, optional=True)

    @property
    def symmetric_only(self) -> bool:
        """CG is wrong for a nonsymmetric matrix."""
        return True

    def solve(self, matvec: Matvec, b: Tensor, x0: Tensor | None = None) -> tuple[Tensor, Stats]:
        """See :class:`CG`."""
        x, stats = self._solve(matvec, b, x0)
        handed = stats["negative_curvature"]
        if self.fallback is None or (self.early_exit and all_true(~handed)):
            return x, stats | {"handed_over": torch.zeros_like(handed)}
        other, theirs = self.fallback.solve(matvec, b, x0)
        both = {
            name: torch.where(handed, theirs[name], mine) for name, mine in stats.items() if name in theirs
        }
        both["linear_steps"] = stats["linear_steps"] + torch.where(handed, theirs["linear_steps"], 0.0)
        both["least_curvature"] = stats["least_curvature"]
        return torch.where(handed, other, x), stats | both | {"handed_over": handed}

    def _solve(self, matvec: Matvec, b: Tensor, x0: Tensor | None) -> tuple[Tensor, Stats]:
        products = as_products(matvec, b)
        precondition = prepare(self.preconditioner, products, b, self.damping)
        start = begin(damped(products, self.damping), b, x0)
        gap, symmetry = Gap.at(start), Symmetry.of(b)
        x, r, p = start.x, start.r, torch.zeros_like(b)
        inner, broken = torch.ones_like(start.size), ~start.sound
        negative, steps = torch.zeros_like(broken), torch.zeros_like(inner)
        least = torch.full_like(inner, float("inf"))
        active = start.unsolved(self.rtol)
        for _ in range(self.max_steps):
            if self.early_exit and all_true(~active):
                break
            z = precondition(r)
            before, inner = inner, r @ z
            fit = (inner > 0) & torch.isfinite(inner)
            broken, active = broken | (active & ~fit), active & fit
            p = torch.where(active, z + (inner / safe(before, active)) * p, p)
            ap, pp = products(p), p @ p
            bare = p @ ap
            ap = ap + self.damping * p
            curvature, apap = bare + self.damping * pp, ap @ ap
            fit = torch.isfinite(curvature + apap)
            steps = steps + active.to(steps.dtype)
            broken, active = broken | (active & ~fit), active & fit
            norms = pp.sqrt(), apap.sqrt()
            gap.product(active, *norms)
            symmetry.see(active, p, ap, norms, gap.gain)
            least = torch.where(active, torch.minimum(least, bare / safe(pp, active)), least)
            usable = curvature > gap.eps * gap.gain * pp
            negative, active = negative | (active & ~usable), active & usable
            alpha = torch.where(active, inner / safe(curvature, active), 0.0)
            x = torch.where(active, x + alpha * p, x)
            r = torch.where(active, r - alpha * ap, r)
            gap.iterate(x)
            active = active & gap.unsolved(r, self.rtol)
        x, lost = start.finish(x)
        stats = figures(
            steps,
            length(r) + gap.value,
            negative_curvature=negative,
            breakdown=broken | lost,
            asymmetric=symmetry.broken,
        )
        return x, stats | {"least_curvature": least}
