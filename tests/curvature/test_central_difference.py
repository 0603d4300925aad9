"""The step of a central difference, and its predicted error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad

import metafunc as mf
from tests.dense import logistic
from tests.tasks import close, logistic_loss, options, tensors


def cubic(phi: Tensor, batch: Tensor) -> Tensor:
    """A Hessian with a known third derivative: ``H = diag(6 b phi)``, and ``dH/dphi = 6 b``."""
    return (batch * phi**3).sum() + (batch * phi**5).sum() / 20


def test_the_error_is_the_predicted_one() -> None:
    """For ``phi^5/20`` the difference quotient of ``phi^4/4`` along ``u`` is ``phi^3 u + delta^2 phi u^3``, exactly;
    in a gradient step ``u = lr w``."""
    theta, b, lr, delta = torch.tensor([1.0, -0.5]), torch.tensor([0.7, 1.1]), 0.05, 6.0
    adapt = mf.Explicit(curvature=mf.CentralDifference(delta=delta))(
        mf.gradient_descent(cubic, lr=lr, steps=1)
    )
    w = torch.tensor([0.4, -1.2])
    found = grad(lambda t: adapt(t, b) @ w)(theta)
    exact = 6 * b * theta * w + b * theta**3 * w
    close(found, w - lr * (exact + b * (lr * delta) ** 2 * theta * w**3), 1e-12)


@pytest.mark.parametrize("displacement", [0.1, 0.5])
def test_a_displacement_is_a_delta_that_follows_the_direction(displacement: float) -> None:
    """hf-maml Theorem 4.17: delta = 1/(6 rho alpha ||w||) is a displacement of 1/(6 rho alpha)."""
    theta, b = torch.tensor([1.0, -0.5]), torch.tensor([0.7, 1.1])
    inner = mf.gradient_descent(cubic, lr=0.05, steps=1)
    w = torch.tensor([3.0, -4.0])
    by_length = mf.Explicit(curvature=mf.CentralDifference(displacement=displacement))(inner)
    by_delta = mf.Explicit(curvature=mf.CentralDifference(delta=displacement / (0.05 * 5)))(inner)
    close(grad(lambda t: by_length(t, b) @ w)(theta), grad(lambda t: by_delta(t, b) @ w)(theta), 1e-12)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-8), (torch.float32, 1e-3)], ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_default_step_follows_dtype_and_norms(dtype: torch.dtype, limit: float, scale: float) -> None:
    task = logistic()
    theta, support, query = tensors(task)
    adapt = mf.Explicit(curvature=mf.CentralDifference())(mf.gradient_descent(logistic_loss, **options(task)))
    to = [theta.to(dtype), *(tuple(x.to(dtype) for x in part) for part in (support, query))]
    found = grad(lambda t: scale * logistic_loss(adapt(t, to[1]), to[2]))(to[0])
    close(found.double() / scale, task.explicit()[0], limit)


def test_a_zero_direction_gives_zero() -> None:
    task = logistic()
    theta, support, _ = tensors(task)
    adapt = mf.Explicit(curvature=mf.CentralDifference())(mf.gradient_descent(logistic_loss, **options(task)))
    assert torch.equal(grad(lambda t: 0 * adapt(t, support).sum())(theta), torch.zeros(6))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: mf.CentralDifference(delta=0), "delta: expected None or a positive number, got 0"),
        (
            lambda: mf.CentralDifference(displacement=-1),
            "displacement: expected None or a positive number, got -1",
        ),
        (
            lambda: mf.CentralDifference(1e-3, 1e-3),
            r"delta, displacement: expected one of the two, got \(0.001, 0.001\)",
        ),
    ],
)
def test_bad_steps(make: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()  # type: ignore[operator]


def test_forward_mode_moves_phi_and_arguments_together() -> None:
    task = logistic(prox=0.8)
    theta, support, query = tensors(task)
    adapt = mf.Explicit(curvature=mf.CentralDifference())(mf.gradient_descent(logistic_loss, **options(task)))
    _, dot = torch.func.jvp(lambda t: logistic_loss(adapt(t, support), query), (theta,), (theta,))
    close(dot, np.dot(task.explicit()[0], task.theta), 1e-8)
