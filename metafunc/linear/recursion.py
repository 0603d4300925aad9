"""What the solvers that update a residual share: where they start, and what rounding hides from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metafunc.linear.products import Matvec
from metafunc.linear.solver import finite, length


@dataclass(frozen=True, slots=True)
class Start:
    """A system divided by the length of its right-hand side, so that no square of a small number vanishes.

    Attributes:
        x: The first iterate.
        r: Its residual.
        size: What to multiply the solution by.
        sound: Whether the right-hand side is finite.
    """

    x: Tensor
    r: Tensor
    size: Tensor
    sound: Tensor

    def unsolved(self, rtol: float) -> Tensor:
        """Whether there is anything to do."""
        return self.sound & (self.r @ self.r > rtol**2)

    def finish(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The solution in its own size, and whether it had to be replaced by zeros."""
        return finite(x * self.size)


def begin(matvec: Matvec, b: Tensor, x0: Tensor | None) -> Start:
    """The start at ``x0``, which costs a product, or at zero, which costs none."""
    peak = b.abs().amax()
    sound = torch.isfinite(peak)
    usable = sound & (peak > 0)
    peak = torch.where(usable, peak, torch.ones_like(peak))
    norm = length(b / peak)
    # What is not finite in b stays in r, and so in the residual that is reported.
    size = peak * torch.where(usable, norm, torch.ones_like(norm))
    unit, zero = b / size, torch.zeros_like(b)
    if x0 is None:
        return Start(zero, unit, size, sound)
    x = x0 / size
    r = unit - matvec(x)
    # The solution for b = 0 is zero, and a start that is not finite is none.
    usable = usable & torch.isfinite(r @ r)
    return Start(torch.where(usable, x, zero), torch.where(usable, r, unit), size, sound)


@dataclass(slots=True)
class Gap:
    """An estimate of the distance between the residual that is updated and the true one.

    Maths: every product and every update of ``x`` and ``r`` rounds by about ``eps ||A|| ||x_j||``; the estimate is
    ``eps`` times the largest ``||A p|| / ||p||`` times the largest ``||x_j||`` met, relative to ``||b|| = 1``.

    Source: van der Vorst and Ye 2000; Greenbaum 1997, who has the largest iterate in it.

    Attributes:
        gain: The largest ``||A p|| / ||p||``.
        reach: The largest ``||x_j||``.
        eps: The rounding unit.
    """

    gain: Tensor
    reach: Tensor
    eps: float

    @classmethod
    def at(cls, start: Start) -> Gap:
        """No product seen, and one iterate."""
        reach = length(start.x)
        return cls(torch.zeros_like(reach), reach, torch.finfo(reach.dtype).eps)

    def product(self, active: Tensor, p: Tensor, ap: Tensor) -> None:
        """Take note of the norms of a direction and of its product."""
        ratio = ap / torch.where(p > 0, p, torch.ones_like(p))
        self.gain = torch.where(active & (ratio > self.gain), ratio, self.gain)

    def iterate(self, x: Tensor) -> None:
        """Take note of an iterate."""
        self.reach = torch.maximum(self.reach, length(x))

    @property
    def nothing(self) -> float:
        """What is zero beside one, if it came out of several steps, each of which may enlarge what rounding left."""
        return self.eps**0.75

    @property
    def value(self) -> Tensor:
        """The estimate."""
        return self.eps * self.gain * self.reach

    def unsolved(self, r: Tensor, rtol: float) -> Tensor:
        """Whether a residual can still be improved, and should be."""
        return length(r) > self.value.clamp(min=rtol)


def safe(divisor: Tensor, where: Tensor) -> Tensor:
    """``divisor``, and one where it will not be used."""
    return torch.where(where, divisor, torch.ones_like(divisor))


def damped(matvec: Matvec, damping: float) -> Matvec:
    """``w -> (A + damping I) w``."""
    return (lambda w: matvec(w) + damping * w) if damping else matvec


@dataclass(slots=True)
class Symmetry:
    """Whether products with successive directions show a matrix that is not symmetric, at no product.

    Maths: ``|p^T A q - q^T A p|`` above ``10 sqrt(eps) (||p|| ||A q|| + ||q|| ||A p||)``, and above what rounding of
    the products themselves explains.

    Attributes:
        broken: Whether it was seen.
        last: The direction before, its product, and their norms.
    """

    broken: Tensor
    last: tuple[Tensor, Tensor, tuple[Tensor, Tensor]] | None = None

    @classmethod
    def of(cls, b: Tensor) -> Symmetry:
        """Nothing seen."""
        return cls(torch.zeros_like(b.sum(), dtype=torch.bool))

    def see(self, active: Tensor, p: Tensor, ap: Tensor, norms: tuple[Tensor, Tensor], gain: Tensor) -> None:
        """Compare a direction with the one before; ``norms`` are its own and that of its product."""
        if self.last is not None:
            q, aq, (q_norm, aq_norm) = self.last
            p_norm, ap_norm = norms
            eps = torch.finfo(p.dtype).eps
            bound = 10 * eps**0.5 * (q_norm * ap_norm + p_norm * aq_norm) + 10 * eps * gain * p_norm * q_norm
            self.broken = self.broken | (active & ((q @ ap - p @ aq).abs() > bound))
        self.last = (p, ap, norms)
