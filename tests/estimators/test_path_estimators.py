"""Explicit, Truncated, Binomial, FirstOrder and Reptile against dense algebra, the bias included."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import grad

import metafunc as mf
from tests.dense import Logistic, logistic
from tests.tasks import close, logistic_loss, options, tensors

K = 5
SETTINGS = {
    "plain": {},
    "prox": {"prox": 0.8},
    "momentum": {"prox": 0.4, "momentum": 0.7},
    "nesterov": {"prox": 0.4, "momentum": 0.7, "nesterov": True},
}


@pytest.fixture(params=SETTINGS, ids=str)
def task(request: pytest.FixtureRequest) -> Logistic:
    return logistic(steps=K, **SETTINGS[request.param])


def meta_gradient(estimator: mf.Estimator, task: Logistic, **changes: Any) -> Any:
    """The gradient in ``(theta, lr, prox)``, with lr and prox learned through theta."""
    theta, support, query = tensors(task)
    inner = mf.gradient_descent(
        logistic_loss,
        **(
            options(task)
            | {"lr": lambda t: t["lr"], "prox": lambda t: t["prox"], "init": lambda t: t["phi"]}
            | changes
        ),
    )
    adapt = estimator(inner)
    meta = {"phi": theta, "lr": torch.tensor(task.lr), "prox": torch.tensor(task.prox)}
    bar = grad(lambda m: logistic_loss(adapt(m, support), query))(meta)
    return torch.cat([bar["phi"], bar["lr"][None], bar["prox"][None]])


def expected(values: tuple[Any, float, float]) -> Any:
    theta, lr, prox = values
    return np.concatenate([theta, [lr], [prox]])


def test_the_oracle_is_not_degenerate(task: Logistic) -> None:
    exact, none = expected(task.explicit()), expected(task.truncated(0))
    assert 0.05 < np.linalg.norm(task.v) < 5
    assert np.linalg.norm(exact - none) > 0.2 * np.linalg.norm(exact)
    first, last = (task.loss_hessian(phi) for phi in (task.theta, task.phi))
    assert np.linalg.norm(first - last) > 0.05 * np.linalg.norm(first)
    assert np.linalg.cond(task.hessian(task.phi)) > 1.5


def test_the_oracle_agrees_with_a_difference_quotient(task: Logistic) -> None:
    def outer(theta: Any, lr: float, prox: float) -> float:
        moved = replace(task, theta=theta, lr=lr, prox=prox)
        return float(np.mean(np.log1p(np.exp(-task.query_y * (task.query_x @ moved.phi)))))

    h, at = 1e-6, (task.theta, task.lr, task.prox)
    slopes = [
        (outer(at[0] + h * e, *at[1:]) - outer(at[0] - h * e, *at[1:])) / (2 * h) for e in np.eye(task.d)
    ]
    slopes.append((outer(at[0], at[1] + h, at[2]) - outer(at[0], at[1] - h, at[2])) / (2 * h))
    slopes.append((outer(at[0], at[1], at[2] + h) - outer(at[0], at[1], at[2] - h)) / (2 * h))
    assert np.allclose(slopes, expected(task.explicit()), atol=1e-8)


@pytest.mark.parametrize("checkpoint", [False, True, 1, 2, 3, 5], ids=str)
def test_explicit(task: Logistic, checkpoint: bool | int) -> None:
    close(meta_gradient(mf.Explicit(checkpoint=checkpoint), task), expected(task.explicit()), 1e-10)


@pytest.mark.parametrize("depth", range(1, K + 1))
def test_truncated_has_its_predicted_bias_at_every_depth(task: Logistic, depth: int) -> None:
    close(meta_gradient(mf.Truncated(depth), task), expected(task.truncated(depth)), 1e-10)


@pytest.mark.parametrize("order", range(1, K + 1))
def test_binomial_has_its_predicted_bias_at_every_order(task: Logistic, order: int) -> None:
    close(meta_gradient(mf.Binomial(order), task), expected(task.binomial(order)), 1e-10)


@pytest.mark.parametrize(("order", "window"), [(o, w) for w in range(1, K + 1) for o in range(1, w + 1)])
def test_hybrid_binomial_at_every_order_and_window(task: Logistic, order: int, window: int) -> None:
    close(
        meta_gradient(mf.Binomial(order, window=window), task), expected(task.binomial(order, window)), 1e-10
    )


@pytest.mark.parametrize(("order", "window"), [(1, None), (2, None), (2, 3), (K, None)])
def test_rescaled_binomial(task: Logistic, order: int, window: int | None) -> None:
    oracle = task.binomial(order, window, factor=order / (window or K))
    close(meta_gradient(mf.Binomial(order, window=window, rescale=True), task), expected(oracle), 1e-10)


@pytest.mark.parametrize(
    "estimator", [mf.FirstOrder(), mf.Truncated(0), mf.Binomial(0), mf.Binomial(0, window=2)], ids=repr
)
def test_first_order_is_the_outer_gradient(task: Logistic, estimator: mf.Estimator) -> None:
    theta, support, query = tensors(task)
    adapt = estimator(mf.gradient_descent(logistic_loss, **options(task)))
    close(grad(lambda t: logistic_loss(adapt(t, support), query))(theta), task.v, 1e-12)


def test_reptile(task: Logistic) -> None:
    theta, support, query = tensors(task)
    adapt = mf.Reptile()(mf.gradient_descent(logistic_loss, **options(task)))
    close(grad(lambda t: logistic_loss(adapt(t, support), query))(theta), task.reptile(), 1e-12)


def test_estimators_never_change_phi(task: Logistic) -> None:
    theta, support, _ = tensors(task)
    inner = mf.gradient_descent(logistic_loss, **options(task))
    found = [e(inner)(theta, support) for e in (mf.Explicit(), mf.Explicit(checkpoint=2), mf.Truncated(2))]
    found += [e(inner)(theta, support) for e in (mf.Binomial(2), mf.FirstOrder(), mf.Reptile())]
    found.append(inner(theta, support))
    for phi in found:
        close(phi, task.phi, 1e-12)


@pytest.mark.parametrize("estimator", [mf.Explicit(), mf.Truncated(2), mf.Binomial(2, window=4)], ids=repr)
def test_hessian_free_products_converge_at_second_order(task: Logistic, estimator: Any) -> None:
    """hf-maml (9): the error of the central difference falls with the square of delta."""
    exact = meta_gradient(estimator, task)
    errors = []
    for delta in (1e-1, 1e-2):
        kind = type(estimator)
        fields = {f: getattr(estimator, f) for f in estimator.__dataclass_fields__ if f != "curvature"}
        rough = meta_gradient(kind(**fields, curvature=mf.CentralDifference(delta)), task)
        errors.append(float((rough - exact).norm()))
    slope = np.log10(errors[0] / errors[1])
    assert 1.9 < slope < 2.1
    fine = kind(**fields, curvature=mf.CentralDifference())
    close(meta_gradient(fine, task), exact, 1e-8)


def test_lr_and_prox_as_tensors_trees_and_functions_agree() -> None:
    task = logistic(steps=3, prox=0.5)
    theta, support, query = tensors(task)

    def gradient(lr: Any, prox: Any) -> Any:
        adapt = mf.Explicit()(
            mf.gradient_descent(lambda p, b: logistic_loss(p["w"], b), lr=lr, prox=prox, steps=3)
        )
        return grad(lambda t: logistic_loss(adapt(t, support)["w"], query))({"w": theta})["w"]

    numbers = gradient(task.lr, task.prox)
    full = {"w": torch.full_like(theta, task.lr)}, {"w": torch.full_like(theta, task.prox)}
    for lr, prox in [(torch.tensor(task.lr), torch.tensor(task.prox)), full]:
        close(gradient(lr, prox), numbers, 1e-14)
        close(gradient(lambda _, lr=lr: lr, lambda _, prox=prox: prox), numbers, 1e-14)


@pytest.mark.parametrize("estimator", [mf.Explicit(), mf.Truncated(2), mf.Binomial(2)], ids=repr)
def test_a_tensor_lr_gets_its_gradient_eagerly_and_under_torch_func(estimator: mf.Estimator) -> None:
    task = logistic(steps=4, prox=0.5)
    theta, support, query = tensors(task)
    oracle = {
        "Explicit": task.explicit,
        "Truncated": lambda: task.truncated(2),
        "Binomial": lambda: task.binomial(2),
    }
    _, expected_lr, _ = oracle[type(estimator).__name__]()

    def meta_loss(lr: torch.Tensor) -> torch.Tensor:
        adapt = estimator(mf.gradient_descent(logistic_loss, lr=lr, prox=task.prox, steps=4))
        return logistic_loss(adapt(theta, support), query)

    lr = torch.tensor(task.lr, requires_grad=True)
    meta_loss(lr).backward()
    assert lr.grad is not None
    close(lr.grad, expected_lr, 1e-10)
    close(grad(meta_loss)(torch.tensor(task.lr)), expected_lr, 1e-10)


def test_meta_sgd_learning_rates_per_parameter() -> None:
    task = logistic(steps=3)
    theta, support, query = tensors(task)
    adapt = mf.Explicit()(
        mf.gradient_descent(logistic_loss, lr=lambda t: t["lr"], init=lambda t: t["phi"], steps=3)
    )
    rates = torch.linspace(0.1, 0.5, task.d)

    def outer(rates: torch.Tensor) -> torch.Tensor:
        return logistic_loss(adapt({"phi": theta, "lr": rates}, support), query)

    steps = 1e-6 * torch.eye(task.d)
    quotients = torch.stack([(outer(rates + h) - outer(rates - h)) / 2e-6 for h in steps])
    close(grad(outer)(rates), quotients, 1e-7)
