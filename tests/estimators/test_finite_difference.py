"""FiniteDifference: exact where it should be, and biased with the order that the paper predicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.func import grad

import metafunc as mf
from metafunc.estimators.finite_difference import stencil
from tests.dense import logistic
from tests.tasks import close, logistic_loss, options, tensors


def error(estimator: mf.Estimator, task: Any) -> float:
    theta, support, query = tensors(task)
    adapt = estimator(mf.gradient_descent(logistic_loss, **options(task)))
    found = grad(lambda t: logistic_loss(adapt(t, support), query))(theta)
    exact = torch.from_numpy(task.implicit())
    return float((found - exact).norm() / exact.norm())


def slope(xs: Any, ys: Any) -> float:
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


@pytest.mark.parametrize(
    ("scheme", "order", "nus"),
    [
        ("forward", 1, (1e-1, 1e-2, 1e-3, 1e-4)),
        ("symmetric", 2, (3e-1, 1e-1, 3e-2, 1e-2)),
        ("forward", 2, (1e-1, 3e-2, 1e-2, 3e-3)),
        ("forward", 3, (1e-1, 5e-2, 2e-2, 1e-2)),
        ("symmetric", 4, (0.3, 0.2, 0.15, 0.1)),
    ],
)
def test_the_bias_has_the_order_of_the_stencil(scheme: Any, order: int, nus: tuple[float, ...]) -> None:
    """fo-b-maml (12), and the higher orders of its Table 1."""
    task = logistic(prox=0.8, steps=100)
    errors = [error(mf.FiniteDifference(nu, scheme, order), task) for nu in nus]
    assert errors[0] > 1e-5
    assert abs(slope(nus, errors) - order) < 0.15


@pytest.mark.parametrize(
    ("scheme", "bound"), [("forward", 1e-6), ("symmetric", 1e-9), ("tangent", 1e-12)], ids=str
)
def test_the_nu_it_picks_is_good(scheme: Any, bound: float) -> None:
    assert error(mf.FiniteDifference(scheme=scheme), logistic(prox=0.8, steps=150)) < bound


def test_it_is_exact_for_quadratics_at_any_nu() -> None:
    """fo-b-maml appendix B, with the outer loss linearised."""
    d, prox = 5, 2.0
    half = torch.randn(d, d)
    a, b, theta = half @ half.T + torch.eye(d), torch.randn(d), torch.randn(d)

    def loss(phi: torch.Tensor) -> torch.Tensor:
        return 0.5 * phi @ a @ phi + b @ phi

    lr = float(1 / (torch.linalg.eigvalsh(a).max() + prox))
    inner = mf.gradient_descent(loss, lr=lr, steps=150, prox=prox)
    regular = a + prox * torch.eye(d)
    phi = torch.linalg.solve(regular, prox * theta - b)
    expected = prox * torch.linalg.solve(regular, a @ phi + b)
    for estimator in (mf.FiniteDifference(1.0), mf.FiniteDifference(5.0, "forward")):
        close(grad(lambda t, e=estimator: loss(e(inner)(t)))(theta), expected, 1e-11)


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_a_short_perturbed_solve_has_the_bias_of_a_neumann_series(steps: int) -> None:
    task = logistic(prox=0.8, steps=150)
    theta, support, query = tensors(task)
    adapt = mf.FiniteDifference(scheme="tangent", steps=steps)(
        mf.gradient_descent(logistic_loss, **options(task))
    )
    found = grad(lambda t: logistic_loss(adapt(t, support), query))(theta)
    close(found, task.neumann(steps, task.lr), 1e-9)


def test_recentring_keeps_the_inner_error_from_being_divided_by_nu() -> None:
    """Without it the bias is delta/nu at worst, fo-b-maml section 3; with it, that of the implicit gradient."""
    task = logistic(prox=0.8, steps=30)
    theta, support, _ = tensors(task)
    adapt = mf.Implicit(mf.Direct())(mf.gradient_descent(logistic_loss, **options(task)))
    stationarity = mf.meta_grad(logistic_loss, adapt)(theta, support, support).stats["stationarity"]
    assert stationarity > 1e-7
    recentred, paper = (
        error(mf.FiniteDifference(1e-5, "forward", recenter=r, steps=150), task) for r in (True, False)
    )
    assert recentred < 1e-4
    assert paper > 10 * recentred


def test_without_recentring_the_nu_it_picks_follows_the_inner_accuracy() -> None:
    def picked(steps: int, scheme: Any) -> float:
        task = logistic(prox=0.8, steps=steps)
        theta, support, query = tensors(task)
        adapt = mf.FiniteDifference(scheme=scheme, recenter=False)(
            mf.gradient_descent(logistic_loss, **options(task))
        )
        stats = mf.meta_grad(logistic_loss, adapt)(theta, support, query).stats
        size = 1 + np.linalg.norm(task.phi)
        length = float(np.linalg.norm(task.v) / size)
        return float(
            np.log(float(stats["nu"]) * length) / np.log(np.linalg.norm(task.gradient(task.phi)) / size)
        )

    assert abs(picked(10, "forward") - 1 / 2) < 1e-6
    assert abs(picked(10, "symmetric") - 1 / 3) < 1e-6


def test_gradients_to_prox_and_data() -> None:
    """fo-b-maml (16)."""
    task = logistic(prox=0.8, steps=150)
    theta, support, query = tensors(task)

    def outer(kind: mf.Estimator, prox: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        adapt = kind(mf.gradient_descent(logistic_loss, **(options(task) | {"prox": prox})))
        return logistic_loss(adapt(theta, (x, support[1])), query)

    at = torch.tensor(task.prox), support[0]
    exact = grad(lambda p, x: outer(mf.Implicit(mf.Direct()), p, x), argnums=(0, 1))(*at)
    for scheme in ("symmetric", "tangent"):
        found = grad(lambda p, x, s=scheme: outer(mf.FiniteDifference(scheme=s), p, x), argnums=(0, 1))(*at)  # type: ignore[arg-type]
        for a, b in zip(found, exact, strict=True):
            close(a, b, 1e-8)


@pytest.mark.parametrize(
    ("scheme", "order"), [("forward", n) for n in range(1, 6)] + [("symmetric", n) for n in (2, 4, 6)]
)
def test_stencils_differentiate_polynomials_exactly(scheme: str, order: int) -> None:
    offsets, weights = stencil(scheme, order)
    for power in range(order + 1):
        derivative = sum(w * float(s) ** power for s, w in zip(offsets, weights, strict=True))
        assert abs(derivative - (power == 1)) < 1e-9
    beyond = sum(w * float(s) ** (order + 1) for s, w in zip(offsets, weights, strict=True))
    assert abs(beyond) > 1e-3
    assert len([s for s in offsets if s]) == order
