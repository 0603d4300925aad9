"""Extreme eigenvalues against dense algebra."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.func import vmap

import metafunc as mf
from metafunc.spectrum import extremes
from tests.dense import logistic
from tests.tasks import close, logistic_loss, tensors


def symmetric(eigenvalues: list[float]) -> torch.Tensor:
    basis, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues)))
    return basis @ torch.diag(torch.tensor(eigenvalues)) @ basis.T


@pytest.mark.parametrize(
    "eigenvalues",
    [[-3.0, -1, 0, 2, 5], [1.0] * 5, [2.0, 2, 2, 2, 7], [0.0] * 5, [-1.0, -2, -3, -4, -5], [4.0]],
    ids=str,
)
def test_enough_steps_are_exact(eigenvalues: list[float]) -> None:
    matrix = symmetric(eigenvalues)
    low, high = extremes(lambda w: matrix @ w, torch.zeros(len(eigenvalues)), 20)
    assert abs(low - min(eigenvalues)) < 1e-12
    assert abs(high - max(eigenvalues)) < 1e-12


def test_few_steps_stay_inside_and_come_close() -> None:
    matrix = symmetric(np.geomspace(0.01, 10, 60).tolist())
    found = [extremes(lambda w: matrix @ w, torch.zeros(60), k) for k in (2, 5, 10)]
    lows, highs = zip(*found, strict=True)
    assert 0.01 < lows[2] < lows[1] < lows[0]
    assert highs[0] < highs[1] < highs[2] < 10
    assert highs[2] > 9.9


def test_a_batch() -> None:
    matrices = torch.stack([symmetric([1.0, 2, 3, 4]), torch.eye(4), symmetric([-2.0, 0, 0, 9])])
    low, high = vmap(lambda m: extremes(lambda w: m @ w, torch.zeros(4), 4))(matrices)
    close(low, torch.tensor([1.0, 1, -2]), 1e-12)
    close(high, torch.tensor([4.0, 1, 9]), 1e-12)


def result(**options: Any) -> tuple[Any, Any]:
    task = logistic(prox=0.8, lr=0.3, steps=5)
    theta, support, query = tensors(task)
    inner = mf.gradient_descent(logistic_loss, prox=0.8, steps=5, **({"lr": 0.3} | options))
    return task, mf.meta_grad(logistic_loss, mf.Binomial(2)(inner), lanczos=6)(theta, support, query).stats


def test_the_figures_of_meta_grad() -> None:
    task, stats = result()
    at_phi, at_start = (np.linalg.eigvalsh(task.hessian(p)) for p in (task.phi, task.theta))
    close(stats["curvature_min"], at_phi[0], 1e-10)
    close(stats["curvature_max"], at_phi[-1], 1e-10)
    a = 0.3 * max(at_phi[-1], at_start[-1])
    close(stats["reach"], a, 1e-10)
    close(stats["series_error"], abs(1 - 5 * a + 10 * a**2 - (1 - a) ** 5), 1e-10)
    close(stats["first_order_error"], abs(1 - (1 - a) ** 5), 1e-10)


def test_the_reach_of_rates_for_each_parameter() -> None:
    """The eigenvalues of ``lr H``, which is not symmetric, are those of ``lr^(1/2) H lr^(1/2)``."""
    rates = torch.linspace(0.1, 0.6, 6)
    task, stats = result(lr=rates)
    plain = mf.gradient_descent(logistic_loss, prox=0.8, steps=5, lr=rates)
    theta, support, _ = tensors(task)
    points = theta.numpy(), plain(theta, support).numpy()
    values = [np.linalg.eigvals(rates.numpy()[:, None] * task.hessian(p)).real.max() for p in points]
    close(stats["reach"], max(values), 1e-10)


def test_rates_below_zero() -> None:
    """What has been learned may be anything; the eigenvalues of ``lr H`` are then below zero."""
    task, stats = result(lr=torch.tensor(-0.1))
    points = (
        task.theta,
        mf.gradient_descent(logistic_loss, prox=0.8, steps=5, lr=torch.tensor(-0.1))(
            *tensors(task)[:2]
        ).numpy(),
    )
    values = np.concatenate([-0.1 * np.linalg.eigvalsh(task.hessian(p)) for p in points])
    close(stats["reach_max"], values.max(), 1e-10)
    close(stats["reach"], np.abs(values).max(), 1e-10)
    assert torch.isfinite(stats["series_error"])


def test_the_reach_is_that_of_the_bounds() -> None:
    """For a quadratic whose Hessian is the identity the bound of a truncated gradient is sharp."""
    inner = mf.gradient_descent(lambda phi, x: 0.5 * phi @ phi - x @ phi, lr=0.15, steps=5)
    theta, query = torch.randn(3), torch.randn(3)
    stats = mf.meta_grad(lambda phi, q: -(q @ phi), mf.Truncated(2)(inner), lanczos=3)(
        theta, query, query
    ).stats
    bound = mf.bounds.convex(mf.Truncated(2), float(stats["reach"]), 5, commuting=True)
    exact = mf.meta_grad(lambda phi, q: -(q @ phi), mf.Explicit()(inner))(theta, query, query).grad
    found = mf.meta_grad(lambda phi, q: -(q @ phi), mf.Truncated(2)(inner))(theta, query, query).grad
    error = float((found - exact).norm() / query.norm())
    assert bound == pytest.approx(error / (1 - 0.15) ** 2, rel=1e-12)  # the last two steps shrink it


def test_window_and_rescaling_enter_the_prediction() -> None:
    inner = mf.gradient_descent(logistic_loss, lr=0.3, steps=5)
    reach = torch.tensor(0.4)
    a = 0.4
    hybrid = mf.Binomial(1, window=2).foresee(inner, reach)
    close(hybrid["series_error"], abs(1 - 2 * a - (1 - a) ** 5), 1e-12)
    rescaled = mf.Binomial(2, rescale=True).foresee(inner, reach)
    b = a * 2 / 5
    close(rescaled["series_error"], abs(1 - 5 * b + 10 * b**2 - (1 - a) ** 5), 1e-12)


def test_other_solvers_have_no_reach() -> None:
    theta, support, query = tensors(logistic())
    adapt = mf.Implicit()(mf.newton_cg(logistic_loss, prox=0.8))
    stats = mf.meta_grad(logistic_loss, adapt, lanczos=3)(theta, support, query).stats
    assert "curvature_max" in stats
    assert "reach" not in stats


def test_bad_requests() -> None:
    adapt = mf.Explicit()(mf.gradient_descent(logistic_loss, lr=0.1, steps=1))
    with pytest.raises(ValueError, match="lanczos: expected an integer of at least 0, got -1"):
        mf.meta_grad(logistic_loss, adapt, lanczos=-1)
    step = mf.Explicit()(mf.iterates(steps=1)(lambda phi, theta, batch: phi))
    with pytest.raises(TypeError, match="lanczos: expected an inner problem with an objective"):
        mf.meta_grad(logistic_loss, step, lanczos=2)
