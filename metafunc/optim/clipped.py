"""Clipped gradient descent."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from metafunc.optim.descent import ScaledGD, check_option


class ClippedGD(ScaledGD):
    """Gradient descent that shortens a gradient longer than ``clip`` to that length.

    Maths: ``theta <- theta - lr min(1, clip / ||g||) g``.

    Source: fo-b-maml section 4.3, which holds it to be equivalent to :class:`~metafunc.optim.NormalizedGD` up to a
    change of ``lr``: with ``clip = beta`` its step is at least as long as that of ``NormalizedGD(lr=lr * beta)`` and
    at most twice as long. Theorem 1 carries over up to constants.

    The same as ``torch.optim.SGD`` after ``torch.nn.utils.clip_grad_norm_`` up to the ``1e-6`` that the latter adds to
    the norm, but the gradients stay as they are.

    Args:
        params: As for any ``torch.optim`` optimizer.
        lr: The step size below the threshold.
        clip: The threshold, ``c`` in the paper.

    Raises:
        ValueError: If ``lr`` or ``clip`` is not positive.
    """

    def __init__(self, params: ParamsT, lr: float, clip: float) -> None:
        super().__init__(params, {"lr": lr, "clip": clip})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch."""
        options = {**self.defaults, **param_group}
        check_option("lr", options["lr"], 0.1)
        check_option("clip", options["clip"], 1.0)
        super().add_param_group(param_group)

    def step_size(self, group: dict[str, Any], norm: Tensor) -> Tensor:
        """``lr min(1, clip / ||g||)``; at zero the quotient is infinite, and the minimum is 1."""
        return group["lr"] * (group["clip"] / norm).clamp(max=1.0)
