"""The dense oracles' tasks as torch sees them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.dense import Logistic


def logistic_loss(phi: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return F.softplus(-y * (x @ phi)).mean()


def tensors(task: Logistic) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """``theta``, support and query of a dense task."""
    t = torch.from_numpy
    return t(task.theta), (t(task.x), t(task.y)), (t(task.query_x), t(task.query_y))


def options(task: Logistic) -> dict[str, Any]:
    """What ``gradient_descent`` needs to follow the dense task's path."""
    return {
        "lr": task.lr,
        "prox": task.prox,
        "momentum": task.momentum,
        "nesterov": task.nesterov,
        "steps": task.steps,
    }


def close(found: Tensor, expected: Any, rtol: float) -> None:
    """Assert a small error of the whole vector relative to the norm of the whole expected one."""
    want = torch.as_tensor(expected, dtype=found.dtype)
    error = (found - want).norm() / want.norm()
    assert error <= rtol, f"relative error {error:.3e} above {rtol:.0e}"
