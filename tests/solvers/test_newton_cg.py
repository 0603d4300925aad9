"""Newton-CG: how fast it converges, what it does where it cannot, and that a batch is its tasks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

import metafunc as mf
from tests.dense import logistic
from tests.tasks import close, logistic_loss, tensors


def stationarity(inner: mf.Inner, theta: Tensor, support: Any) -> float:
    adapt = mf.Implicit(mf.Direct())(inner)
    return float(mf.meta_grad(logistic_loss, adapt)(theta, support, support).stats["stationarity"])


def test_a_quadratic_takes_one_step() -> None:
    scales = torch.linspace(1, 30, 8)

    def loss(phi: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (scales * (phi - target) ** 2).sum()

    theta, target = torch.randn(8), torch.randn(8)
    inner = mf.newton_cg(loss, steps=1, solver=mf.CG(max_steps=8, rtol=0), prox=2.0)
    close(inner(theta, target), (scales * target + 2 * theta) / (scales + 2), 1e-12)


def test_it_converges_faster_than_linearly() -> None:
    theta, support, _ = tensors(logistic())
    found = [
        stationarity(
            mf.newton_cg(logistic_loss, steps=k, solver=mf.CG(max_steps=8, rtol=0), prox=0.3), theta, support
        )
        for k in (2, 3, 4, 5)
    ]
    orders = [torch.log(torch.tensor(b)) / torch.log(torch.tensor(a)) for a, b in pairwise(found)]
    assert found[-1] < 1e-9
    assert min(orders) > 1.5


def test_the_implicit_gradient_through_it() -> None:
    task = logistic(prox=0.8, steps=200)
    theta, support, query = tensors(task)
    inner = mf.newton_cg(logistic_loss, steps=8, prox=0.8)
    for estimator, limit in ((mf.Implicit(mf.Direct()), 1e-10), (mf.FiniteDifference(), 1e-7)):
        adapt = estimator(inner)
        found = grad(lambda t, a=adapt: logistic_loss(a(t, support), query))(theta)
        close(found, task.implicit(), limit)


@pytest.mark.parametrize("tolerance", [0.0, 1e-4])
def test_a_batch_is_its_tasks(tolerance: float) -> None:
    parts = [tensors(logistic(seed)) for seed in range(4)]
    theta = parts[0][0]
    support = tuple(torch.stack(x) for x in zip(*(p[1] for p in parts), strict=True))
    inner = mf.newton_cg(logistic_loss, steps=6, prox=0.3, tolerance=tolerance)
    together = vmap(inner, in_dims=(None, 0))(theta, support)
    for i in range(4):
        close(together[i], inner(theta, (support[0][i], support[1][i])), 1e-12)


def wavy(phi: Tensor, batch: Tensor) -> Tensor:
    """Concave at the start, so that Newton's direction would go uphill."""
    return (torch.cos(phi) * batch).sum()


@pytest.mark.parametrize("curvature", [mf.Exact(), mf.CentralDifference()], ids=repr)
def test_negative_curvature_leads_downhill_all_the_same(curvature: Any) -> None:
    theta, batch = torch.tensor([0.3, -0.4]), torch.ones(2)
    inner = mf.newton_cg(wavy, steps=12, curvature=curvature)
    phi = inner(theta, batch)
    assert wavy(phi, batch) < -1.999
    values = [float(wavy(mf.newton_cg(wavy, steps=k)(theta, batch), batch)) for k in range(1, 6)]
    assert values == sorted(values, reverse=True)


def test_gauss_newton_directions() -> None:
    x, y = torch.randn(9, 4), torch.randn(9)
    loss = mf.Composed(lambda p, b: torch.tanh(b[0] @ p), lambda out, b: ((out - b[1]) ** 2).mean())
    options = {"steps": 100, "prox": 0.5, "solver": mf.CG(max_steps=8)}
    found = mf.newton_cg(loss, curvature=mf.GaussNewton(), **options)(torch.zeros(4), (x, y))
    close(found, mf.newton_cg(loss, **options)(torch.zeros(4), (x, y)), 1e-7)


def test_a_search_without_descent_stays_and_is_found_out() -> None:
    """A loss whose value is NaN anywhere but at the start leaves no point that could be taken."""
    theta, batch = torch.ones(3), torch.ones(3)

    def cliff(phi: Tensor, b: Tensor) -> Tensor:
        inside = ((phi - 1).abs() < 1e-12).all()
        return torch.where(inside, (phi * b).sum(), torch.nan)

    inner = mf.newton_cg(cliff, steps=2, prox=1.0)
    close(inner(theta, batch), theta, 1e-15)
    result = mf.meta_grad(lambda phi, b: (phi**2).sum(), mf.Implicit()(inner))(theta, batch, batch)
    assert result.stats["stationarity"] == 1
    with pytest.raises(mf.CheckError, match="phi does not solve the inner problem"):
        mf.check(result)


def test_backtracking_halves_until_the_decrease_suffices() -> None:
    """From 2 the full Newton step on ``log cosh`` overshoots ever further; gradient information alone diverges."""

    def loss(phi: Tensor, b: Tensor) -> Tensor:
        return torch.log(torch.cosh(phi)).sum() + 0 * b.sum()

    theta, b = torch.tensor([2.0]), torch.ones(1)
    full = theta - torch.tanh(theta) * torch.cosh(theta) ** 2
    assert loss(full, b) > loss(theta, b)
    assert mf.newton_cg(loss, steps=1, backtracks=0)(theta, b) == theta
    assert loss(mf.newton_cg(loss, steps=1)(theta, b), b) < loss(theta, b)
    assert mf.newton_cg(loss, steps=12)(theta, b).abs() < 1e-12


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"steps": 0}, ValueError, "steps: expected an integer of at least 1, got 0"),
        ({"backtracks": -1}, ValueError, "backtracks: expected an integer of at least 0, got -1"),
        ({"curvature": 3}, TypeError, r"curvature: expected a curvature such as Exact\(\)"),
        ({"solver": mf.CG}, TypeError, "solver: expected a linear solver"),
        ({"curvature": mf.GaussNewton()}, TypeError, "mf.Composed"),
    ],
)
def test_bad_options(options: Any, error: Any, text: str) -> None:
    theta, support, _ = tensors(logistic())
    with pytest.raises(error, match=text):
        mf.newton_cg(logistic_loss, **options)(theta, support)


def test_no_path_to_follow() -> None:
    with pytest.raises(TypeError, match="Explicit: expected an inner problem solved by steps it can follow"):
        mf.Explicit()(mf.newton_cg(logistic_loss, prox=1.0))
    with pytest.raises(TypeError, match=r"FiniteDifference\('tangent'\)"):
        mf.FiniteDifference(scheme="tangent")(mf.newton_cg(logistic_loss, prox=1.0))


def test_perturbed_solves_are_recentred_on_an_unfinished_solution() -> None:
    """After one step phi is no solution; recentred, the perturbed problems move from it as the implicit formula says."""
    task = logistic(prox=0.8)
    theta, support, query = tensors(task)
    inner = mf.newton_cg(logistic_loss, steps=1, solver=mf.CG(max_steps=8, rtol=0.0), prox=0.8)
    results = [
        mf.meta_grad(logistic_loss, estimator(inner))(theta, support, query)
        for estimator in (mf.Implicit(mf.Direct()), mf.FiniteDifference())
    ]
    assert results[0].stats["stationarity"] > 1e-2
    close(results[1].grad, results[0].grad, 1e-6)
    assert results[1].stats["linear_residual"] < 1e-3
