"""meta_grad against torch.func.grad of the composition, and what it reports."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

import metafunc as mf
from tests.dense import logistic
from tests.tasks import close, logistic_loss, options, tensors


def batch(count: int = 5) -> tuple[Tensor, Any, Any]:
    parts = [tensors(logistic(seed)) for seed in range(count)]
    support, query = (tuple(torch.stack(x) for x in zip(*(p[i] for p in parts), strict=True)) for i in (1, 2))
    return parts[0][0], support, query


BATCHINGS = [mf.Vmap(), mf.Vmap(chunk=2), mf.Vmap(chunk=5), mf.Vmap(chunk=9), mf.Loop()]


@pytest.mark.parametrize("tasks", BATCHINGS, ids=repr)
@pytest.mark.parametrize("estimator", [mf.Explicit(), mf.Truncated(2), mf.Implicit()], ids=repr)
def test_a_batch_is_the_mean_of_its_tasks(estimator: mf.Estimator, tasks: Any) -> None:
    theta, support, query = batch()
    adapt = estimator(mf.gradient_descent(logistic_loss, lr=0.3, prox=0.8, steps=5))
    result = mf.meta_grad(logistic_loss, adapt, tasks=tasks)(theta, support, query)
    each = vmap(grad(lambda t, s, q: logistic_loss(adapt(t, s), q)), in_dims=(None, 0, 0))(
        theta, support, query
    )
    close(result.grad, each.mean(0), 1e-12)
    close(result.phi, vmap(adapt, in_dims=(None, 0))(theta, support), 1e-12)
    close(result.value, result.stats["loss"].mean(), 1e-14)
    assert result.stats["loss"].shape == (5,)
    for figure in result.stats.values():
        assert figure.shape == (5,)


def test_a_single_task() -> None:
    task = logistic(prox=0.8)
    theta, support, query = tensors(task)
    adapt = mf.Explicit()(mf.gradient_descent(logistic_loss, **options(task)))
    result = mf.meta_grad(logistic_loss, adapt)(theta, support, query)
    close(result.grad, task.explicit()[0], 1e-10)
    close(result.phi, task.phi, 1e-12)
    assert result.value.ndim == 0


def test_an_outer_loss_that_sees_theta_and_returns_more() -> None:
    task = logistic(prox=0.8)
    theta, support, query = tensors(task)
    adapt = mf.Explicit()(mf.gradient_descent(logistic_loss, **options(task)))

    def outer(phi: Tensor, theta: Tensor, query: Any) -> tuple[Tensor, Tensor]:
        return logistic_loss(phi, query) + (theta**2).sum(), phi.sum()

    result = mf.meta_grad(outer, adapt, has_aux=True, with_theta=True)(theta, support, query)
    close(result.grad, torch.from_numpy(task.explicit()[0]) + 2 * theta, 1e-10)
    close(result.aux, task.phi.sum(), 1e-12)


@pytest.mark.parametrize("tasks", BATCHINGS, ids=repr)
def test_what_the_outer_function_returns_beside_the_loss_is_stacked(tasks: Any) -> None:
    theta, support, query = batch()
    adapt = mf.Explicit()(mf.gradient_descent(logistic_loss, lr=0.3, steps=3))

    def outer(phi: Tensor, query: Any) -> tuple[Tensor, Any]:
        right = (query[0] @ phi).sign() == query[1]
        return logistic_loss(phi, query), {"accuracy": right.to(phi.dtype).mean(), "norm": phi.norm()}

    found = mf.meta_grad(outer, adapt, tasks=tasks, has_aux=True)(theta, support, query)
    right = torch.stack(
        [((query[0][i] @ found.phi[i]).sign() == query[1][i]).double().mean() for i in range(5)]
    )
    close(found.aux["accuracy"], right, 1e-14)
    close(found.aux["norm"], found.phi.norm(dim=1), 1e-14)


@pytest.mark.parametrize("tasks", [None, mf.Vmap(), mf.Loop()], ids=repr)
def test_its_gradient_can_be_differentiated(tasks: Any) -> None:
    theta, support, query = batch(2)
    adapt = mf.Explicit()(mf.gradient_descent(logistic_loss, lr=0.3, steps=3))

    def composed(t: Tensor) -> Tensor:
        losses = [
            logistic_loss(adapt(t, (support[0][i], support[1][i])), (query[0][i], query[1][i]))
            for i in (0, 1)
        ]
        return (losses[0] + losses[1]) / 2 if tasks else losses[0]

    data = (support, query) if tasks else tuple((x[0], y[0]) for x, y in (support, query))
    found = torch.func.jacrev(lambda t: mf.meta_grad(logistic_loss, adapt, tasks=tasks)(t, *data).grad)(theta)
    close(found, torch.func.hessian(composed)(theta), 1e-10)


def test_theta_that_requires_grad_is_welcome() -> None:
    theta, support, query = batch()
    adapt = mf.Explicit()(mf.gradient_descent(logistic_loss, lr=0.3, steps=3))
    plain = mf.meta_grad(logistic_loss, adapt, tasks=mf.Vmap())(theta, support, query)
    tracked = mf.meta_grad(logistic_loss, adapt, tasks=mf.Vmap())(
        theta.clone().requires_grad_(), support, query
    )
    close(tracked.grad.detach(), plain.grad, 1e-12)


def test_integers_in_theta_get_no_gradient() -> None:
    task = logistic()
    theta, support, query = tensors(task)
    adapt = mf.Explicit()(mf.gradient_descent(logistic_loss, lr=0.3, steps=5, init=lambda t: t["w"]))
    result = mf.meta_grad(logistic_loss, adapt)({"w": theta, "n": torch.tensor(3)}, support, query)
    close(result.grad["w"], task.explicit()[0], 1e-10)
    assert result.grad["n"] is None
