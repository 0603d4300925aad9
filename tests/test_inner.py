"""Inner problems by themselves: solving, checking, and black boxes under vmap."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import vmap

import metafunc as mf
from tests.dense import logistic
from tests.tasks import close, logistic_loss, options, tensors


@mf.minimizes(lambda phi, theta, x: ((phi - x) ** 2).sum() + ((phi - theta) ** 2).sum())
def by_bisection(theta: Tensor, x: Tensor) -> Tensor:
    """Looks at values, writes in place and leaves torch: none of it could run under vmap."""
    low, high = torch.minimum(theta, x), torch.maximum(theta, x)
    while (high - low).max().item() > 1e-12:
        middle = (low + high) / 2
        above = 2 * (middle - x) + 2 * (middle - theta) > 0
        high[above], low[~above] = middle[above], middle[~above]
    return torch.from_numpy(low.numpy().copy())


def test_a_black_box_runs_task_by_task_under_vmap() -> None:
    theta, xs = torch.randn(3), torch.randn(4, 3)
    close(vmap(by_bisection, in_dims=(None, 0))(theta, xs), (theta + xs) / 2, 1e-11)
    close(
        vmap(vmap(by_bisection, in_dims=(None, 0)), in_dims=(0, None))(xs, xs), (xs[:, None] + xs) / 2, 1e-11
    )


def test_a_black_box_gets_detached_tensors() -> None:
    theta = torch.randn(3, requires_grad=True)
    assert not by_bisection(theta.detach(), torch.zeros(3)).requires_grad
    adapt = mf.Implicit()(by_bisection)
    adapt(theta, torch.zeros(3)).sum().backward()
    close(theta.grad, 0.5 * torch.ones(3), 1e-10)  # type: ignore[arg-type]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
def test_the_steps_are_those_of_torch_sgd(momentum: float, nesterov: bool) -> None:
    if nesterov and not momentum:
        pytest.skip("Nesterov's method needs momentum")
    theta, support, _ = tensors(logistic())
    phi = theta.clone().requires_grad_()
    optimizer = torch.optim.SGD([phi], lr=0.2, momentum=momentum, nesterov=nesterov)
    for _ in range(7):
        optimizer.zero_grad()
        logistic_loss(phi, support).backward()
        optimizer.step()
    inner = mf.gradient_descent(logistic_loss, lr=0.2, steps=7, momentum=momentum, nesterov=nesterov)
    close(inner(theta, support), phi.detach(), 1e-13)


def test_it_follows_the_dense_path() -> None:
    task = logistic(prox=0.7, momentum=0.5, steps=9)
    theta, support, _ = tensors(task)
    close(mf.gradient_descent(logistic_loss, **options(task))(theta, support), task.phi, 1e-13)
