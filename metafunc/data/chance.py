"""Random arrays, in float64 whatever torch's default dtype is."""

from typing import Any

import torch
from torch import Tensor

_linalg: Any = torch.linalg  # torch does not type all of it


def normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal numbers, on the generator's device."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)


def orthonormal(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Matrices [batch, rows, columns <= rows] whose columns are orthonormal, uniformly random.

    Source: Mezzadri, "How to generate random matrices from the classical compact groups" (2007): the `Q` of a normal
        matrix is uniform if the diagonal of `R` is positive.
    """
    factors: tuple[Tensor, Tensor] = _linalg.qr(normal(shape, generator))
    q, r = factors
    return q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]
