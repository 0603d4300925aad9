"""Normalized gradient descent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from metafunc.optim.descent import ScaledGD, check_option


class NormalizedGD(ScaledGD):
    """Gradient descent whose steps stay shorter than ``lr`` however large the gradient is.

    Maths: ``theta <- theta - lr g / (beta + ||g||)``. Far from a stationary point a step is about ``lr`` long; near
    one this is gradient descent with the step size ``lr / beta``.

    Source: fo-b-maml section 4.3. Its Theorem 1: for an objective whose smoothness grows as ``L0 + L1 ||grad F||``,
    as the B-MAML objective's does (Corollary 2), ``lr = 1 / L1`` and ``beta = L0 / L1`` reach
    ``||grad F|| <= eps + O(sqrt(delta))`` in ``O(L0 / eps^2 + L1^2 / L0)`` steps, with inner solutions of accuracy
    ``delta``. A step is then ``g / (L0 + L1 ||g||)``, the inverse of the smoothness at hand.

    Args:
        params: As for any ``torch.optim`` optimizer.
        lr: The longest step.
        beta: The norm of the gradient at which a step is half as long; 0 makes every step ``lr`` long.

    Raises:
        ValueError: If ``lr`` is not positive, or ``beta`` is negative.
    """

    def __init__(self, params: ParamsT, lr: float, beta: float) -> None:
        super().__init__(params, {"lr": lr, "beta": beta})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch."""
        options = {**self.defaults, **param_group}
        check_option("lr", options["lr"], 0.1)
        check_option("beta", options["beta"], 1.0, zero=True)
        super().add_param_group(param_group)

    def step_size(self, group: dict[str, Any], norm: Tensor) -> Tensor:
        """``lr / (beta + ||g||)``, and ``lr`` where that is a division of zero by zero."""
        length = group["beta"] + norm
        return group["lr"] / torch.where(length == 0, 1.0, length)
