"""Adam against torch's, its derivative against plain autograd, and at gradients that are exactly zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, vmap

import metafunc as mf
from tests.dense import logistic
from tests.tasks import close, logistic_loss, tensors


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_it_is_torchs_adam(dtype: torch.dtype) -> None:
    theta, support, _ = tensors(logistic())
    start, data = theta.to(dtype), tuple(x.to(dtype) for x in support)
    options: dict[str, Any] = {"lr": 0.05, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.1}
    found = mf.adam(logistic_loss, steps=7, **options)(start, data)
    leaf = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([leaf], **options)
    for _ in range(7):
        optimizer.zero_grad()
        logistic_loss(leaf, data).backward()
        optimizer.step()
    close(found, leaf.detach(), 1e-13 if dtype == torch.float64 else 1e-6)


def plain_path(theta: Tensor, support: Any, lr: Tensor, steps: int) -> Tensor:
    """Adam as in the paper, with its whole graph."""
    phi, m, v = theta.clone(), torch.zeros(6), torch.zeros(6)
    for k in range(1, steps + 1):
        (g,) = torch.autograd.grad(logistic_loss(phi, support), phi, create_graph=True)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        phi = phi - lr * (m / (1 - 0.9**k)) / ((v / (1 - 0.999**k)).sqrt() + 1e-8)
    return phi


@pytest.mark.parametrize(
    "estimator", [mf.Explicit(), mf.Explicit(checkpoint=2), mf.Truncated(5), mf.Binomial(5)], ids=repr
)
def test_its_derivative_is_that_of_the_path(estimator: mf.Estimator) -> None:
    theta, support, query = tensors(logistic())
    lr = torch.full((6,), 0.05)

    def outer(t: Tensor, r: Tensor) -> Tensor:
        return logistic_loss(estimator(mf.adam(logistic_loss, lr=r, steps=5))(t, support), query)

    found = grad(outer, argnums=(0, 1))(theta, lr)
    leaves = theta.clone().requires_grad_(), lr.clone().requires_grad_()
    expected = torch.autograd.grad(logistic_loss(plain_path(leaves[0], support, leaves[1], 5), query), leaves)
    for a, b in zip(found, expected, strict=True):
        close(a, b, 1e-10)
    if isinstance(estimator, mf.Explicit):
        adapt = estimator(mf.adam(logistic_loss, lr=0.05, steps=5))
        close(jacfwd(adapt)(theta, support), jacrev(adapt)(theta, support), 1e-12)
        close(vmap(adapt, (None, 0))(theta, tuple(x[None] for x in support))[0], adapt(theta, support), 1e-14)


def dead(phi: Tensor, batch: Tensor) -> Tensor:
    """The second coordinate has a zero gradient; the third too, at zero, but not a zero curvature."""
    return (batch * phi[0] ** 2).sum() + 0 * phi[1] + phi[2] ** 2


def test_a_zero_gradient_has_the_derivative_of_the_update() -> None:
    """One step is ``phi - lr g / (|g| + eps)``, with derivative ``1 - lr eps h / (|g| + eps)^2``."""
    theta, batch, lr, eps = torch.tensor([1.0, 2.0, 0.0]), torch.ones(1), 0.1, 1e-2
    adapt = mf.Explicit()(mf.adam(dead, lr=lr, eps=eps, steps=1))
    expected = torch.diag(torch.tensor([1 - lr * eps * 2 / (2 + eps) ** 2, 1.0, 1 - lr * 2 / eps]))
    close(jacrev(adapt)(theta, batch), expected, 1e-12)
    close(jacfwd(adapt)(theta, batch), expected, 1e-12)
    several = mf.Explicit()(mf.adam(dead, lr=lr, steps=4))
    assert torch.isfinite(jacrev(several)(theta, batch)).all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lr": 0.1, "betas": (1.0, 0.9)}, r"betas\[0\]: expected a number in \[0, 1\), got 1.0"),
        ({"lr": 0.1, "eps": 0.0}, "eps: expected a positive number, got 0.0"),
        ({"lr": 0.0}, r"lr: expected a positive number, got 0"),
    ],
)
def test_options_out_of_range(options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        mf.adam(logistic_loss, steps=2, **options)
