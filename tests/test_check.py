"""mf.check in plain words: each finding, and silence where there is nothing to find."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

import metafunc as mf
from tests.dense import logistic
from tests.tasks import logistic_loss, tensors

X = torch.ones(3, dtype=torch.float64)
THETA = torch.linspace(0.5, 1.5, 4, dtype=torch.float64)
SCALES = torch.tensor([0.2, 1.0, 2.0, 5.0], dtype=torch.float64)


def quadratic(phi: Tensor, x: Tensor) -> Tensor:
    return 0.5 * (SCALES * (phi - 1 - x.sum()) ** 2).sum()


def says(text: str) -> Any:
    return pytest.raises(mf.CheckError, match=re.escape(text))


def gradient(estimator: mf.Estimator, inner: mf.Inner, **options: Any) -> mf.MetaGrad:
    return mf.meta_grad(quadratic, estimator(inner), **options)(THETA, X, X)


def test_good_results_pass() -> None:
    solved = mf.gradient_descent(quadratic, lr=0.15, prox=1.0, steps=60)
    for estimator in (mf.Explicit(), mf.Implicit(), mf.FiniteDifference(), mf.Truncated(3)):
        result = gradient(estimator, solved, lanczos=4)
        assert mf.check(result) is result
    short = gradient(mf.Binomial(3), mf.gradient_descent(quadratic, lr=0.02, steps=5), lanczos=4)
    assert mf.check(short) is short


def test_what_is_not_finite() -> None:
    inner = mf.gradient_descent(quadratic, lr=0.1, steps=2)
    nan = mf.meta_grad(lambda phi, x: quadratic(phi, x) * float("nan"), mf.Explicit()(inner))(THETA, X, X)
    with says("the outer loss is not finite (1 of 1 tasks); the meta-gradient at . is not finite"):
        mf.check(nan)


def test_a_phi_that_is_no_solution() -> None:
    """The figure is scale-free: a loss a thousand times smaller, solved as far, is judged alike."""
    for factor in (1.0, 1e-3):
        inner = mf.gradient_descent(
            lambda phi, x, f=factor: f * quadratic(phi, x), lr=0.15 / factor, prox=factor, steps=2
        )
        result = gradient(mf.Implicit(), inner)
        with says(
            f"phi does not solve the inner problem (1 of 1 tasks, the gradient is still up to "
            f"{float(result.stats['stationarity']):.2g} of that at the start), so the implicit formula does not apply"
        ):
            mf.check(result)
        assert mf.check(result, stationarity=1.0) is result
        slopes = [SCALES * (p - 4) + (p - THETA) for p in (result.phi, THETA)]
        torch.testing.assert_close(result.stats["stationarity"], slopes[0].norm() / slopes[1].norm())


def test_an_unfinished_linear_solve() -> None:
    inner = mf.gradient_descent(quadratic, lr=0.15, prox=0.1, steps=100)
    rough = gradient(mf.Implicit(mf.CG(max_steps=1)), inner)
    with says("the linear solve has not converged (1 of 1 tasks, worst relative residual"):
        mf.check(rough, linear_residual=1e-6)


def test_negative_curvature_and_a_prox_that_is_too_small() -> None:
    scales = torch.tensor([-0.7, 1.0, 2.0, 5.0])

    def saddle(phi: Tensor, x: Tensor) -> Tensor:
        return 0.5 * (scales * phi**2).sum() + 0 * x.sum()

    inner = mf.newton_cg(saddle, steps=1, prox=0.5)
    result = mf.meta_grad(quadratic, mf.Implicit(mf.CG(max_steps=4))(inner), lanczos=4)(THETA, X, X)
    with says(
        "the inner objective has negative curvature at phi (1 of 1 tasks), so phi is no minimum that moves with theta: "
        "prox is too small, raise it by more than 0.2"
    ):
        mf.check(result, stationarity=9.0, linear_residual=9.0)
    without = mf.meta_grad(quadratic, mf.Implicit(mf.Direct())(inner), lanczos=4)(THETA, X, X)
    with says("prox is too small, raise it by more than 0.2"):  # though the solver does not care
        mf.check(without, stationarity=9.0)


def test_a_solve_that_breaks_down() -> None:
    flat = mf.gradient_descent(
        objective=lambda phi, theta, x: (phi - theta).sum() ** 2 + 0 * x.sum(), lr=0.1, steps=2
    )
    result = mf.meta_grad(quadratic, mf.Implicit(mf.Direct())(flat))(THETA, X, X)
    assert torch.isfinite(result.grad).all()
    with says("the linear solve broke down (1 of 1 tasks): singular, or not finite"):
        mf.check(result, stationarity=9.0)


def test_a_matrix_that_was_not_symmetric_after_all() -> None:
    twist = torch.tensor([[2.0, 1, 0, 0], [-1, 3, 0, 0], [0, 0, 4, 1], [0, 0, -1, 5]])

    def solve(theta: Tensor, x: Tensor) -> Tensor:
        return torch.linalg.solve(twist, theta)

    inner = mf.solves(lambda phi, theta, x: twist @ phi - theta, symmetric=True)(solve)
    result = mf.meta_grad(quadratic, mf.Implicit(mf.CG(max_steps=4))(inner))(THETA, X, X)
    with says(
        "the matrix is not symmetric (1 of 1 tasks), which the linear solver needs: use GMRES or NormalCG"
    ):
        mf.check(result, linear_residual=9.0)


def test_binomial_outside_its_range() -> None:
    inner = mf.gradient_descent(quadratic, lr=0.18, steps=5)
    result = gradient(mf.Binomial(2), inner, lanczos=4)
    with says(
        "Binomial is outside its range (1 of 1 tasks): lr * largest eigenvalue is about 0.9, where its error along "
        "that eigenvector is 4.6, that of FirstOrder 1"
    ):
        mf.check(result)
    assert mf.check(gradient(mf.Binomial(2), inner)).stats  # nothing is known without the estimate


@pytest.mark.parametrize("sign", [0.0, -1.0], ids=["flat", "concave"])
@pytest.mark.parametrize("estimator", [mf.Binomial(2), mf.Binomial(5)], ids=repr)
def test_binomial_in_its_range(estimator: mf.Estimator, sign: float) -> None:
    """Both errors are zero for a loss without curvature, and both are small where no eigenvalue is above zero."""
    inner = mf.gradient_descent(lambda phi, x: sign * quadratic(phi, x) + phi.sum(), lr=0.05, steps=5)
    assert mf.check(gradient(estimator, inner, lanczos=4)).stats["series_error"] <= 1


def test_a_step_of_a_meta_optimizer() -> None:
    net = torch.nn.Linear(1, 1)
    meta = mf.MetaOptimizer(
        net,
        torch.nn.functional.mse_loss,
        torch.optim.SGD(net.parameters(), lr=0.1),
        lambda p: mf.gradient_descent(**p, lr=0.1, steps=1),
    )
    batch = torch.ones(2, 3, 1), torch.ones(2, 3, 1)
    step = meta.step((batch, batch))
    assert mf.check(step) is step
    with says("the meta-gradient is not finite"):
        mf.check(step._replace(grad_norm=torch.tensor(torch.nan)))
    with says("the outer loss is not finite (1 of 2 tasks)"):
        mf.check(step._replace(stats={"loss": torch.tensor([1.0, torch.inf])}))


@pytest.mark.parametrize("other", [None, (1, 2), {"loss": 1.0}, torch.ones(2)])
def test_what_is_no_result(other: Any) -> None:
    with pytest.raises(
        TypeError, match=r"result: expected what mf\.meta_grad.* a MetaGrad or a MetaStep, got"
    ):
        mf.check(other)


def test_it_counts_tasks() -> None:
    parts = [tensors(logistic(seed)) for seed in range(3)]
    support, query = (tuple(torch.stack(x) for x in zip(*(p[i] for p in parts), strict=True)) for i in (1, 2))
    support = (support[0] * torch.tensor([1.0, 1e-3, 1.0])[:, None, None], support[1])
    inner = mf.gradient_descent(logistic_loss, lr=0.1, prox=0.5, steps=1)
    result = mf.meta_grad(logistic_loss, mf.Implicit()(inner), tasks=mf.Vmap())(parts[0][0], support, query)
    far = int((result.stats["stationarity"] > 0.9).sum())
    assert 0 < far < 3
    with says(f"phi does not solve the inner problem ({far} of 3 tasks"):
        mf.check(result, stationarity=0.9)


def test_warm_starts_save_steps() -> None:
    """From the adjoint of the meta-step before the solver has less to do; other estimators have no use for one."""
    inner = mf.gradient_descent(quadratic, lr=0.15, prox=0.1, steps=100)
    step = mf.meta_grad(quadratic, mf.Implicit(mf.CG(max_steps=8, rtol=1e-3))(inner))
    cold = step(THETA, X, X)
    moved = THETA + 1e-4
    again, warm = step(moved, X, X), step(moved, X, X, guess=cold.adjoint)
    assert warm.stats["linear_steps"] < again.stats["linear_steps"]
    torch.testing.assert_close(warm.grad, again.grad, rtol=2e-3, atol=0)
    batch = mf.meta_grad(quadratic, mf.Implicit(mf.CG(max_steps=8, rtol=1e-3))(inner), tasks=mf.Vmap(chunk=2))
    xs = torch.stack([X, 2 * X, 3 * X])
    first = batch(THETA, xs, xs)
    assert first.adjoint.shape == (3, 4)
    second = batch(moved, xs, xs, guess=first.adjoint)
    assert (second.stats["linear_steps"] < first.stats["linear_steps"]).all()
    with pytest.raises(
        TypeError, match="guess: expected an estimator that solves a linear system, got Explicit"
    ):
        mf.meta_grad(quadratic, mf.Explicit()(inner))(THETA, X, X, guess=cold.adjoint)
