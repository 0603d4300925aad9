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


def shared_head(theta: Any, head: Any, batch: Any) -> Tensor:
    return (torch.tanh(batch[0] @ theta["body"]) @ head - batch[1]).square().mean()


@pytest.mark.parametrize("tasks", [None, mf.Vmap(), mf.Loop()], ids=repr)
def test_a_leaf_with_a_direct_gradient_needs_none_through_the_solve(tasks: Any) -> None:
    """First-order ANIL: the moves of the head are constants, and the body's gradient is the direct one."""
    theta = {"body": torch.randn(3, 4), "head": torch.randn(4)}
    support, query = ((torch.randn(2, 5, 3), torch.randn(2, 5)) for _ in range(2))
    total = {name: torch.zeros_like(x) for name, x in theta.items()}
    count = 1 if tasks is None else 2
    for i in range(count):
        body, head = (x.clone().requires_grad_() for x in theta.values())
        phi = head
        for _ in range(3):
            at = phi.detach().requires_grad_()
            inner = shared_head({"body": body.detach()}, at, (support[0][i], support[1][i]))
            phi = phi - 0.1 * torch.autograd.grad(inner, at)[0]
        outer = shared_head({"body": body}, phi, (query[0][i], query[1][i]))
        for name, slope in zip(total, torch.autograd.grad(outer, (body, head)), strict=True):
            total[name] += slope / count
    adapt = mf.FirstOrder()(
        mf.gradient_descent(
            objective=lambda head, t, b: shared_head(t, head, b), init=lambda t: t["head"], lr=0.1, steps=3
        )
    )
    f = mf.meta_grad(lambda head, t, b: shared_head(t, head, b), adapt, with_theta=True, tasks=tasks)
    data = [tuple(x[0] if tasks is None else x for x in part) for part in (support, query)]
    for _ in range(2):
        found = f(theta, *data).grad
        for name, slope in total.items():
            close(found[name], slope, 1e-12)
    alone = mf.meta_grad(lambda head, b: head.sum(), adapt, tasks=tasks)
    with pytest.raises(
        mf.ZeroGradientError, match=r"at \.theta\['body'\], which feeds the inner solve"
    ) as caught:
        alone(theta, *data)
    assert caught.value.leaves == (0,)


@pytest.mark.parametrize("estimator", [mf.Explicit(), mf.Truncated(2), mf.Reptile(), mf.Implicit()], ids=repr)
def test_an_outer_loss_without_phi_is_refused(estimator: mf.Estimator) -> None:
    theta, support, query = tensors(logistic(prox=0.8))
    adapt = estimator(mf.gradient_descent(logistic_loss, lr=0.3, prox=0.8, steps=3))
    text = "outer: expected a loss that depends on phi, the adapted parameters, got one that does not"
    for outer in (lambda phi, q: q[0].sum(), lambda phi, q: phi.detach().sum() + q[0].sum()):
        with pytest.raises(mf.ZeroGradientError, match=text):
            mf.meta_grad(outer, adapt)(theta, support, query)
