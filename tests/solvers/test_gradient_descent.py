"""Gradient descent: weight decay, early stopping task by task, and Nesterov's constants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

import metafunc as mf
from tests.dense import logistic
from tests.tasks import close, logistic_loss, tensors


def test_weight_decay_is_that_of_torch() -> None:
    theta, support, _ = tensors(logistic())
    found = mf.gradient_descent(logistic_loss, lr=0.3, weight_decay=0.4, momentum=0.5, steps=6)(
        theta, support
    )
    leaf = theta.clone().requires_grad_()
    optimizer = torch.optim.SGD([leaf], lr=0.3, weight_decay=0.4, momentum=0.5)
    for _ in range(6):
        optimizer.zero_grad()
        logistic_loss(leaf, support).backward()
        optimizer.step()
    close(found, leaf.detach(), 1e-13)


def batch() -> tuple[Tensor, Any, Any]:
    parts = [tensors(logistic(seed)) for seed in range(4)]
    support, query = (tuple(torch.stack(x) for x in zip(*(p[i] for p in parts), strict=True)) for i in (1, 2))
    return parts[0][0], support, query


def steps_needed(theta: Tensor, support: Any, tolerance: float) -> int:
    phi, steps = theta, 0
    while True:
        slope = grad(logistic_loss)(phi, support) + 0.8 * (phi - theta)
        if slope.norm() <= tolerance:
            return steps
        phi, steps = phi - 0.3 * slope, steps + 1


@pytest.mark.parametrize(
    "estimator",
    [mf.Explicit(), mf.Explicit(checkpoint=3), mf.Truncated(40), mf.Implicit(mf.Direct())],
    ids=repr,
)
def test_each_task_stops_where_it_would_alone(estimator: mf.Estimator) -> None:
    """The derivative is that of the steps that were really taken; the others are the identity."""
    theta, support, query = batch()
    tolerance = 1e-3
    adapt = estimator(mf.gradient_descent(logistic_loss, lr=0.3, prox=0.8, steps=40, tolerance=tolerance))
    phi = vmap(adapt, in_dims=(None, 0))(theta, support)
    slopes = vmap(grad(lambda t, s, q: logistic_loss(adapt(t, s), q)), in_dims=(None, 0, 0))(
        theta, support, query
    )
    counts = []
    for i in range(4):
        s, q = ((x[i], y[i]) for x, y in (support, query))
        counts.append(steps_needed(theta, s, tolerance))
        plain = mf.gradient_descent(logistic_loss, lr=0.3, prox=0.8, steps=counts[-1])
        close(phi[i], plain(theta, s), 1e-14)
        alone = (mf.Implicit(mf.Direct()) if isinstance(estimator, mf.Implicit) else mf.Explicit())(plain)
        close(slopes[i], grad(lambda t, a=alone, s=s, q=q: logistic_loss(a(t, s), q))(theta), 1e-12)
    assert len(set(counts)) > 1
    assert max(counts) < 40


def test_the_loop_ends_when_every_task_is_there() -> None:
    theta, support, _ = batch()
    calls: list[int] = []

    def loss(phi: Tensor, b: Any) -> Tensor:
        calls.append(1)
        return logistic_loss(phi, b)

    inner = mf.gradient_descent(loss, lr=0.3, prox=0.8, steps=1000, tolerance=1e-6)
    vmap(inner, in_dims=(None, 0))(theta, support)
    calls.clear()  # the first call looks at what the loss reaches
    vmap(inner, in_dims=(None, 0))(theta, support)
    needed = max(steps_needed(theta, (support[0][i], support[1][i]), 1e-6) for i in range(4))
    assert len(calls) == needed + 1


def test_finite_differences_ignore_the_tolerance() -> None:
    """A perturbed solve starts within the tolerance and must move all the same."""
    theta, support, query = tensors(task := logistic(prox=0.8))
    inner = mf.gradient_descent(logistic_loss, lr=0.3, prox=0.8, steps=200, tolerance=1e-8)
    adapt = mf.FiniteDifference()(inner)
    task.steps = 200
    close(grad(lambda t: logistic_loss(adapt(t, support), query))(theta), task.implicit(), 1e-6)


@pytest.mark.parametrize(("condition", "prox"), [(50.0, 0.0), (1000.0, 0.0), (1000.0, 5.0)])
def test_nesterov_keeps_the_bound_that_imaml_counts_on(condition: float, prox: float) -> None:
    """imaml Lemma 2: 2 sqrt(kappa) log(2 kappa ||x*|| / delta) gradients, from the origin."""
    d = 20
    eigenvalues = torch.from_numpy(np.geomspace(1.0, condition, d))
    centre = torch.randn(d)

    def loss(phi: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (eigenvalues * (phi - target) ** 2).sum()

    theta = torch.zeros(d)
    solution = eigenvalues * centre / (eigenvalues + prox)
    kappa = (condition + prox) / (1 + prox)
    errors = {}
    for delta in (1e-2, 1e-6):
        steps = math.ceil(2 * math.sqrt(kappa) * math.log(2 * kappa * float(solution.norm()) / delta))
        inner = mf.nesterov(loss, smoothness=condition, strong_convexity=1.0, prox=prox, steps=steps)
        errors[delta] = float((inner(theta, centre) - solution).norm())
        assert errors[delta] <= delta
        plain = mf.gradient_descent(loss, lr=1 / (condition + prox), prox=prox, steps=steps)
        assert float((plain(theta, centre) - solution).norm()) > errors[delta]


def test_nesterov_is_its_two_sequences() -> None:
    """x_{k+1} = y_k - grad g(y_k) / L, y_{k+1} = x_{k+1} + beta (x_{k+1} - x_k); returned is y."""
    theta, support, _ = tensors(logistic())
    smoothness, prox, strong = 2.0, 0.7, 0.1
    kappa = (smoothness + prox) / (strong + prox)
    beta = (kappa**0.5 - 1) / (kappa**0.5 + 1)
    x = y = theta
    for _ in range(7):
        slope = grad(logistic_loss)(y, support) + prox * (y - theta)
        after = y - slope / (smoothness + prox)
        x, y = after, after + beta * (after - x)
    inner = mf.nesterov(logistic_loss, smoothness=smoothness, strong_convexity=strong, prox=prox, steps=7)
    close(inner(theta, support), y, 1e-13)
    explicit = jacrev(mf.Explicit()(inner))(theta, support)
    assert (explicit - torch.eye(6)).norm() > 0.1
    long = mf.nesterov(logistic_loss, smoothness=smoothness, strong_convexity=strong, prox=prox, steps=200)
    close(
        jacrev(mf.Explicit()(long))(theta, support),
        jacrev(mf.Implicit(mf.Direct())(long))(theta, support),
        1e-9,
    )


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: mf.gradient_descent(logistic_loss, lr=0.1, steps=3, tolerance=-1),
            "tolerance: expected a number of at least 0, got -1",
        ),
        (
            lambda: mf.gradient_descent(logistic_loss, lr=0.1, steps=3, weight_decay=-1),
            r"weight_decay: expected a number of at least 0, got -1",
        ),
        (
            lambda: mf.nesterov(logistic_loss, smoothness=1.0, steps=3),
            r"expected 0 < strong_convexity \+ prox <= smoothness \+ prox, got \(1.0, 0.0, 0.0\)",
        ),
        (
            lambda: mf.nesterov(logistic_loss, smoothness=1.0, strong_convexity=2.0, steps=3),
            "expected 0 < strong_convexity",
        ),
    ],
)
def test_options_out_of_range(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()
