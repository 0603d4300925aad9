"""Gradient descent with another step size at every step: what the outer methods of the papers share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from metafunc import options


class ScaledGD(Optimizer):
    """``theta <- theta - s g``, where a subclass says what the step size ``s`` is.

    Options belong to parameter groups, so that groups may differ in them, and learning-rate schedulers work. The norm
    ``||g||`` is that of the whole gradient, over all groups: in the papers ``theta`` is one vector.

    Nothing waits for the device. A gradient that is not finite makes parameters that are not, as in
    ``torch.optim.SGD``; a parameter without a gradient is left alone.
    """

    @abstractmethod
    def step_size(self, group: dict[str, Any], norm: Tensor) -> Tensor:
        """The step size ``s`` of a group, where ``norm`` is that of the whole gradient."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; ``closure``, if any, evaluates the loss and its gradient first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = get_total_norm([p.grad for p in params])
        for group in self.param_groups:
            size = self.step_size(group, norm)
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad * size.to(p.device))
        return loss


def check_option(name: str, value: Any, example: Any, *, zero: bool = False) -> None:
    """Raise unless an option is a finite number above 0, or 0 itself where that makes sense."""
    options.number(name, value, example, ends="[)" if zero else "()")
