"""The truncated Neumann series."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metafunc import errors
from metafunc.linear.solver import LinearSolver, Matvec, check_limits, figures
from metafunc.rule import Stats


@dataclass(frozen=True, slots=True, repr=False)
class Neumann(LinearSolver):
    """The truncated Neumann series ``x = sum_{j < max_steps} (I - scale A)^j scale b``.

    Exact when: ``max_steps`` grows without bound and every eigenvalue of ``scale A`` lies within 1 of 1; ``A`` need not
    be symmetric. For the residual ``phi - step(phi)`` of an iteration, ``scale=1`` gives the sum over the steps of the
    iteration run backwards from its limit.

    Bias: ``-(I - scale A)^max_steps A^-1 b``, exactly.

    Cost: ``max_steps`` products (the last one is for the residual that the stats report).

    Attributes:
        max_steps: The number of terms.
        scale: The factor that brings ``A`` near the identity, such as the inner learning rate.

    Raises:
        ValueError: If an attribute is out of range.
    """

    max_steps: int = 10
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_limits(self.max_steps)
        if not self.scale > 0:
            raise errors.out_of_range(
                "scale", self.scale, "a positive number", "e.g. the inner learning rate"
            )

    def solve(self, matvec: Matvec, b: Tensor) -> tuple[Tensor, Stats]:
        """See :class:`Neumann`."""
        x, r = torch.zeros_like(b), b
        for _ in range(self.max_steps):
            x = x + self.scale * r
            r = r - self.scale * matvec(r)
        return x, figures(torch.full_like(b.sum(), self.max_steps), b, r)
