"""Conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metafunc import errors
from metafunc.linear.solver import LinearSolver, Matvec, check_limits, relative
from metafunc.rule import Stats


@dataclass(frozen=True, slots=True, repr=False)
class CG(LinearSolver):
    """Conjugate gradients for a symmetric positive definite ``A``, started at zero.

    Maths: iterate ``j`` minimises ``(x - x*)^T A (x - x*)`` over the Krylov space of ``b, A b, ..., A^(j-1) b``; with
    ``damping`` the system is ``(A + damping I) x = b``.

    Source: imaml, Algorithm 2 and (7); Hestenes and Stiefel 1952.

    Exact when: ``max_steps`` is at least the number of distinct eigenvalues that ``b`` has a part in.

    Cost: always ``max_steps`` products. An iteration that has nothing left to do (``||r|| <= rtol ||b||``, which
    includes ``b = 0``, or a direction of non-positive curvature) leaves the iterate as it is, so that a batch of
    systems under ``vmap`` stops system by system and nothing is ever divided by zero.

    Negative curvature: the solve stops and keeps what it has, and ``stats["negative_curvature"]`` says so.

    Attributes:
        max_steps: The number of products.
        rtol: Relative residual at which a system counts as solved.
        damping: Added to the diagonal of ``A``.

    Raises:
        ValueError: If an attribute is out of range.
    """

    max_steps: int = 10
    rtol: float = 1e-6
    damping: float = 0.0

    def __post_init__(self) -> None:
        check_limits(self.max_steps, self.rtol)
        if self.damping < 0:
            raise errors.out_of_range("damping", self.damping, "a number of at least 0", "e.g. damping=0.1")

    @property
    def symmetric_only(self) -> bool:
        """CG is wrong for a nonsymmetric matrix."""
        return True

    def solve(self, matvec: Matvec, b: Tensor) -> tuple[Tensor, Stats]:
        """See :class:`CG`."""
        x, r, p = torch.zeros_like(b), b, b
        rr = bb = b @ b
        target = self.rtol**2 * bb
        steps = torch.zeros_like(bb)
        negative = torch.zeros_like(bb, dtype=torch.bool)
        broken = torch.zeros_like(negative)
        active = rr > target
        for _ in range(self.max_steps):
            ap = matvec(p) + self.damping * p
            curvature = p @ ap
            broken = broken | (active & ~torch.isfinite(curvature))
            negative = negative | (active & (curvature <= 0))
            steps = steps + active.to(steps.dtype)
            active = active & (curvature > 0) & torch.isfinite(curvature)
            alpha = torch.where(active, rr / torch.where(active, curvature, 1.0), 0.0)
            x = torch.where(active, x + alpha * p, x)
            r = torch.where(active, r - alpha * ap, r)
            after = r @ r
            beta = torch.where(active, after / torch.where(active, rr, 1.0), 0.0)
            p = torch.where(active, r + beta * p, p)
            rr = after
            active = active & (rr > target)
        return x, {
            "linear_steps": steps,
            "linear_residual": relative(rr.sqrt(), bb.sqrt()),
            "negative_curvature": negative,
            "breakdown": broken,
        }
