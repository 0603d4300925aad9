import re

import numpy as np
import pytest
import torch
from torch.func import grad, hessian

import metafunc as mf
from metafunc import bayes
from tests.bayes.problem import (
    Conjugate,
    classify,
    conjugate,
    descending,
    exact_solver,
    flat,
    images,
    parameters,
    solved,
)
from tests.tasks import close


def lemma(task: Conjugate, mean, log_variance, v):
    """ibaml's Lemma 1 as it is printed, with variances for coordinates, and the two logarithms by the chain rule."""
    a, w = task.x.T @ task.x / task.sigma**2, task.weight
    d, d_t = np.exp(task.log_variance), np.exp(log_variance)
    slope_m, slope_d = a @ mean - task.x.T @ task.y / task.sigma**2, 0.5 * np.diag(a)
    zero = np.zeros_like(a)
    corner = 0.5 * w * (1 / d + 2 * slope_d / w) ** 2  # the expected loss is linear in the variances
    h = np.block([[a + w * np.diag(1 / d), zero], [zero, np.diag(corner)]])
    g = np.block([[w * np.diag(1 / d), zero], [-np.diag(slope_m / d), 0.5 * w * np.diag(d**-2)]])
    bar = g @ np.linalg.solve(h, v / np.concatenate([np.ones_like(d), d_t]))
    return bar * np.concatenate([np.ones_like(d), d])


def gradient(inner, task, v):
    adapt = mf.Implicit(exact_solver())(inner)
    return flat(grad(lambda t: flat(adapt(t, task.support, task.exact_noise)) @ v)(ordered(task.theta)))


def ordered(theta):
    return {name: theta[name] for name in ("mean", "log_variance")}


@pytest.mark.parametrize("steps", [0, 3, 30])
def test_it_is_lemma_1_wherever_the_solver_stopped(steps):
    task, v = conjugate(), torch.randn(8)
    inner = descending(task, steps=max(steps, 1), lr=0.02 if steps else 1e-12)
    phi = inner(ordered(task.theta), task.support, task.exact_noise)
    found = gradient(bayes.fixed_point(inner), task, v)
    wanted = lemma(task, phi["mean"]["w"].numpy(), phi["log_variance"]["w"].numpy(), v.numpy())
    close(found, wanted, 1e-8)


def test_off_a_stationary_point_it_differs_from_the_implicit_theorem_of_the_gradient_and_at_one_it_does_not():
    task, v = conjugate(), torch.randn(8)
    for inner, apart in ((descending(task, steps=3), True), (solved(task), False)):
        found, other = gradient(bayes.fixed_point(inner), task, v), gradient(inner, task, v)
        difference = (found - other).norm() / other.norm()
        assert difference > 1e-2 if apart else difference < 1e-10


def test_it_leaves_the_solution_and_its_stationarity_alone():
    task = conjugate()
    inner = descending(task, steps=5)
    args = task.theta, task.support, task.exact_noise
    assert torch.equal(flat(inner(*args)), flat(bayes.fixed_point(inner)(*args)))
    stats = [
        mf.meta_grad(lambda phi, _: flat(phi).sum(), mf.Implicit()(each))(*args, ()).stats
        for each in (bayes.fixed_point(inner) for inner in (descending(task, steps=1), solved(task)))
    ]
    assert stats[1]["stationarity"] < 1e-9 < 0.01 < stats[0]["stationarity"]


def test_at_the_solution_of_another_loss_all_agree_and_second_derivatives_too():
    theta = bayes.prior({"w": torch.randn(2)}, 0.3)
    noise = {"w": torch.randn(3, 2)}
    x, y = torch.randn(6, 2), torch.randn(6).sign()
    elbo = bayes.Elbo(lambda p, b: torch.nn.functional.softplus(-b[1] * (b[0] @ p["w"])).sum())
    inner = mf.newton_cg(**elbo.problem, steps=12, solver=exact_solver(), prox=0.5, tolerance=1e-13)
    flat_theta, unravel = mf.tree.ravel(theta)

    def second(inner):
        adapt = mf.Implicit(exact_solver())(inner)
        return hessian(lambda t: (flat(adapt(unravel(t), (x, y), noise)) ** 2).sum())(flat_theta)

    wanted = second(inner)
    assert wanted.norm() > 0.1
    close(second(bayes.fixed_point(inner)), wanted, 1e-8)


def test_with_a_fixed_variance_there_are_means_alone():
    task, v = conjugate(), torch.randn(4)
    inner = solved(task, variance=0.2)
    found = [gradient(each, task, v) for each in (inner, bayes.fixed_point(inner))]
    close(found[0], found[1], 1e-10)


def test_a_flat_direction_takes_the_pseudo_inverse():
    # An overparametrised model with a prior so wide that H is singular to working precision (remark 1).
    x = torch.tensor([[1.0, 1.0, 0.0]])
    elbo = bayes.Elbo(lambda p, b: 0.5 * ((b[0] @ p["w"] - b[1]) ** 2).sum(), variance=0.0)
    theta = bayes.prior({"w": torch.tensor([0.3, 0.1, 0.2])}, 1e14)
    adapt = mf.Implicit(mf.Direct(rcond=1e-10))(mf.gradient_descent(**elbo.problem, lr=0.4, steps=200))
    noise = bayes.noise(theta["mean"], 1, torch.Generator())
    found = grad(lambda t: adapt(t, (x, torch.ones(1)), noise)["mean"]["w"] @ torch.ones(3))(theta)
    assert all(torch.isfinite(leaf).all() for leaf in mf.tree.leaves(found))
    assert found["mean"]["w"].abs().max() < 1e-10


def test_batch_norm_and_vmap():
    theta, elbo = bayes.prior(parameters(), 0.02), bayes.Elbo(classify, 0.2)
    noise = bayes.noise(theta["mean"], 2, torch.Generator().manual_seed(0), tasks=2)
    adapt = mf.Implicit(mf.CG(max_steps=3))(
        bayes.fixed_point(mf.gradient_descent(**elbo.problem, lr=0.1, steps=2))
    )
    found = [
        flat(
            mf.meta_grad(lambda p, q: elbo.expected(p, *q), adapt, tasks=tasks)(
                theta, images(2, 1), noise, (images(2, 2), noise)
            ).grad
        )
        for tasks in (mf.Vmap(), mf.Loop())
    ]
    close(found[0], found[1], 1e-11)


WRONG = {
    "not Bayesian": (
        lambda: bayes.fixed_point(mf.gradient_descent(lambda p: p.sum(), lr=0.1, steps=1)),
        (
            "fixed_point: expected an inner problem whose objective is an mf.bayes.Elbo, got gradient_descent(steps=1). "
            "Build it with mf.gradient_descent(**mf.bayes.Elbo(loss).problem, lr=..., steps=...)."
        ),
    ),
    "no inner problem": (lambda: bayes.fixed_point(3), "fixed_point: expected an inner problem, got int 3."),
}


@pytest.mark.parametrize(("make", "text"), WRONG.values(), ids=WRONG)
def test_errors_say_what_to_do(make, text):
    with pytest.raises(TypeError, match=f"^{re.escape(text)}"):
        make()
