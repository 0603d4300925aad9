"""Implicit(root=torchopt's custom_root) and the decorators of both libraries: all agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev, jvp, vmap

import metafunc as mf
from metafunc.interop.torchopt import custom_root
from tests.dense import logistic
from tests.models import MODELS
from tests.tasks import close, logistic_loss, options, tensors

torchopt = pytest.importorskip("torchopt")
ROOT = torchopt.diff.implicit.custom_root
SOLVERS = {
    "CG": lambda: mf.CG(max_steps=20, rtol=1e-14),
    "Direct": mf.Direct,
    "TorchOpt's CG": lambda: torchopt.linear_solve.solve_cg(maxiter=50, rtol=1e-14),
    "TorchOpt's normal CG": lambda: torchopt.linear_solve.solve_normal_cg(maxiter=100, rtol=1e-15),
}


def batch() -> tuple[Any, Tensor, Any, Any]:
    tasks = [logistic(seed, prox=0.8, steps=80) for seed in range(3)]
    for task in tasks:
        task.theta = tasks[0].theta
    parts = [tensors(t) for t in tasks]
    support, query = (tuple(torch.stack(x) for x in zip(*(p[i] for p in parts), strict=True)) for i in (1, 2))
    return tasks, parts[0][0], support, query


@pytest.mark.parametrize("name", SOLVERS)
def test_three_ways_to_one_gradient(name: str) -> None:
    """TorchOpt's decorator inside ours, our own rule, and our decorator with TorchOpt's signature."""
    tasks, theta, support, query = batch()
    inner = mf.gradient_descent(logistic_loss, **options(tasks[0]))
    solver = SOLVERS[name]()

    @custom_root(
        lambda phi, theta, b: grad(logistic_loss)(phi, b) + 0.8 * (phi - theta), argnums=(1, 2), solve=solver
    )
    def decorated(start: Tensor, theta: Tensor, b: Any) -> Tensor:
        return inner(theta, b)

    ways: dict[str, Any] = {
        "root": mf.Implicit(solver, root=ROOT)(inner),
        "rule": mf.Implicit(solver)(inner),
        "decorator": lambda t, s: decorated(torch.zeros_like(t), t, s),
    }
    for adapt in ways.values():

        def meta_loss(t: Tensor, s: Any, q: Any, adapt: Any = adapt) -> Tensor:
            return logistic_loss(adapt(t, s), q)

        one = grad(meta_loss)(theta, *(tuple(x[1] for x in part) for part in (support, query)))
        close(one, tasks[1].implicit(), 1e-7)
        mapped = vmap(grad(meta_loss), in_dims=(None, 0, 0))(theta, support, query)
        for i, task in enumerate(tasks):
            close(mapped[i], task.implicit(), 1e-7)
        mean = grad(lambda t, f=meta_loss: vmap(f, in_dims=(None, 0, 0))(t, support, query).mean())(theta)
        close(mean, mapped.mean(0), 1e-7)
        leaf = theta.clone().requires_grad_()
        vmap(meta_loss, in_dims=(None, 0, 0))(leaf, support, query).mean().backward()
        close(leaf.grad, mapped.mean(0), 1e-7)  # type: ignore[arg-type]


def test_the_whole_batch_is_one_system() -> None:
    """TorchOpt's decorator is entered once, with all tasks in its tensors, not once a task."""
    _, theta, support, query = batch()
    seen: list[torch.Size] = []

    def counting(optimality_fn: Any, argnums: Any, solve: Any) -> Any:
        def spied(matvec: Any, b: Any) -> Any:
            seen.append(b[0].shape)
            return solve(matvec, b)

        return ROOT(optimality_fn, argnums=argnums, solve=spied)

    inner = mf.gradient_descent(logistic_loss, lr=0.3, prox=0.8, steps=50)
    adapt = mf.Implicit(mf.CG(max_steps=20, rtol=1e-12), root=counting)(inner)
    result = mf.meta_grad(logistic_loss, adapt, tasks=mf.Vmap())(theta, support, query)
    assert seen == [torch.Size([3, 6])]
    plain = mf.meta_grad(logistic_loss, mf.Implicit(mf.Direct())(inner), tasks=mf.Loop())(
        theta, support, query
    )
    close(result.grad, plain.grad, 1e-9)
    assert result.stats["stationarity"].shape == (3,)


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_on_networks(name: str) -> None:
    model = MODELS[name]()
    inner = mf.gradient_descent(model.loss, lr=model.lr, prox=model.prox, steps=model.solved_steps)
    results = [
        mf.meta_grad(model.loss, estimator(inner), tasks=mf.Vmap())(
            model.theta, model.support, model.query
        ).grad
        for estimator in (mf.Implicit(mf.CG(60, 1e-13), root=ROOT), mf.Implicit(mf.CG(60, 1e-13)))
    ]
    close(model.flat(results[0]), model.flat(results[1]), 1e-7)


def test_data_and_hyperparameters_get_their_gradients() -> None:
    tasks, theta, support, query = batch()
    one, q = (tuple(x[0] for x in part) for part in (support, query))

    def outer(prox: Tensor, x: Tensor, root: Any) -> Tensor:
        inner = mf.gradient_descent(logistic_loss, **(options(tasks[0]) | {"prox": prox}))
        return logistic_loss(mf.Implicit(mf.Direct(), root=root)(inner)(theta, (x, one[1])), q)

    at = torch.tensor(0.8), one[0]
    theirs, ours = (grad(lambda p, x, r=root: outer(p, x, r), argnums=(0, 1))(*at) for root in (ROOT, None))
    for a, b in zip(theirs, ours, strict=True):
        close(a, b, 1e-9)


def test_what_it_refuses() -> None:
    tasks, theta, support, _ = batch()
    one = tuple(x[0] for x in support)
    inner = mf.gradient_descent(logistic_loss, **options(tasks[0]))
    adapt = mf.Implicit(mf.Direct(), root=ROOT)(inner)
    with pytest.raises(mf.SecondDerivativeError):
        jacrev(grad(lambda t: adapt(t, one).sum()))(theta)
    with pytest.raises(mf.ForwardModeError):
        jvp(lambda t: adapt(t, one), (theta,), (theta,))
    with pytest.raises(mf.ZeroGradientError):
        grad(
            lambda lr: mf.Implicit(mf.Direct(), root=ROOT)(
                mf.gradient_descent(logistic_loss, **(options(tasks[0]) | {"lr": lr}))
            )(theta, one).sum()
        )(torch.tensor(0.3))
    with pytest.raises(
        TypeError, match=r"root: expected a function such as torchopt.diff.implicit.custom_root"
    ):
        mf.Implicit(root=3)  # type: ignore[arg-type]
