"""Parameters in two groups with known gradients, and what the three optimizers should make of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from metafunc.optim import ClippedGD, NormalizedGD, SmoothnessAdaptiveGD

CONSTANTS = {"smoothness": 2.5, "hessian_lipschitz": 1.5, "inner_lr": 0.04}
NORMS = torch.tensor([3.0, 0.5, 7.0], dtype=torch.float64)


def adaptive(params: object, lr: float = 0.3) -> SmoothnessAdaptiveGD:
    optimizer = SmoothnessAdaptiveGD(params, lr, **CONSTANTS)  # type: ignore[arg-type]
    optimizer.observe(NORMS)
    return optimizer


MAKE: dict[str, Callable[..., Optimizer]] = {
    "normalized": lambda params, lr=0.3: NormalizedGD(params, lr, beta=0.7),
    "clipped": lambda params, lr=0.3: ClippedGD(params, lr, clip=2.0),
    "adaptive": adaptive,
}


def step_size(name: str, norm: float, lr: float = 0.3) -> float:
    """What multiplies the gradient, from the papers' formulas."""
    if name == "normalized":
        return lr / (0.7 + norm)
    if name == "clipped":
        return lr if norm <= 2 else lr * 2 / norm
    return lr / (4 * 2.5 + 2 * 1.5 * 0.04 * (3.0 + 0.5 + 7.0) / 3)


def parameters(scale: float = 1.0, seed: int = 0) -> tuple[list[Tensor], list[NDArray[np.float64]]]:
    """Parameters with gradients of a total norm of ``scale``, and these gradients."""
    chance = np.random.default_rng(seed)
    slopes = [chance.standard_normal(shape) for shape in ((3, 2), (4,), ())]
    length = np.sqrt(sum((g**2).sum() for g in slopes))
    slopes = [np.asarray(g * (scale / length)) for g in slopes]
    params = [torch.from_numpy(np.asarray(chance.standard_normal(g.shape))).requires_grad_() for g in slopes]
    for p, g in zip(params, slopes, strict=True):
        p.grad = torch.from_numpy(g.copy())
    return params, slopes


def values(params: list[Tensor]) -> list[NDArray[np.float64]]:
    return [p.detach().numpy().copy() for p in params]
