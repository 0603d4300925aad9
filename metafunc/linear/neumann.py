"""The truncated Neumann series."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metafunc import options
from metafunc.linear.products import Matvec
from metafunc.linear.recursion import Gap, begin
from metafunc.linear.solver import LinearSolver, figures, length
from metafunc.rule import Stats


@dataclass(frozen=True, slots=True, repr=False)
class Neumann(LinearSolver):
    """The truncated Neumann series ``x = x0 + sum_{j < max_steps} (I - scale A)^j scale (b - A x0)``.

    Exact when: ``max_steps`` grows without bound and every eigenvalue of ``scale A`` lies within 1 of 1; ``A`` need not
    be symmetric. For the residual ``phi - step(phi)`` of an iteration, ``scale=1`` gives the sum over the steps of the
    iteration run backwards from its limit.

    Bias: ``-(I - scale A)^max_steps (A^-1 b - x0)``, exactly. Where an eigenvalue lies further out the series diverges,
    seen in ``stats["linear_residual"]``.

    Cost: ``max_steps`` products (the last one is for the residual that the stats report), one more with ``x0``.

    Attributes:
        max_steps: The number of terms.
        scale: The factor that brings ``A`` near the identity, such as the inner learning rate.

    Raises:
        ValueError: If an attribute is out of range.
    """

    max_steps: int = 10
    scale: float = 1.0

    def __post_init__(self) -> None:
        options.integer("max_steps", self.max_steps, 10)
        options.positive("scale", self.scale, "the inner learning rate")

    def solve(self, matvec: Matvec, b: Tensor, x0: Tensor | None = None) -> tuple[Tensor, Stats]:
        """See :class:`Neumann`."""
        start = begin(matvec, b, x0)
        gap = Gap.at(start)
        x, r, broken = start.x, start.r, ~start.sound
        steps = torch.zeros_like(start.size)
        for _ in range(self.max_steps):
            ar = matvec(r)
            arar = ar @ ar
            broken = broken | ~torch.isfinite(arar)
            gap.product(~broken, length(r), arar.sqrt())
            x = torch.where(broken, x, x + self.scale * r)
            r = torch.where(broken, r, r - self.scale * ar)
            gap.iterate(x)
            steps = steps + (~broken).to(steps.dtype)
        x, lost = start.finish(x)
        return x, figures(steps, length(r) + gap.value, breakdown=broken | lost)
