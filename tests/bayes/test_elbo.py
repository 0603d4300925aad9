import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

import metafunc as mf
from metafunc import bayes
from tests.bayes.problem import (
    classify,
    conjugate,
    descending,
    exact_solver,
    expected_query_loss,
    flat,
    images,
    parameters,
    solved,
)
from tests.tasks import close

TASKS = 3


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_optimum_is_the_mean_field_posterior(seed, weight):
    task = conjugate(seed, weight=weight)
    phi = solved(task)(task.theta, task.support, task.exact_noise)
    mean, variance = task.solution
    close(phi["mean"]["w"], mean, 1e-10)
    close(phi["log_variance"]["w"].exp(), variance, 1e-10)


@pytest.mark.parametrize("dressed", [lambda inner: inner, bayes.fixed_point], ids=["Implicit", "fixed_point"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_implicit_meta_gradient_is_that_of_the_closed_form(seed, dressed):
    task = conjugate(seed)
    adapt, outer = mf.Implicit(exact_solver())(dressed(solved(task))), expected_query_loss(task)
    found = grad(lambda t: outer(adapt(t, task.support, task.exact_noise)))(task.theta)
    of_mean, of_log_variance = task.meta_gradient
    assert min(abs(of_mean).max(), abs(of_log_variance).max()) > 0.1
    close(found["mean"]["w"], of_mean, 1e-8)
    close(found["log_variance"]["w"], of_log_variance, 1e-8)


def by_hand(task, theta, steps, lr):
    """The path of gradient descent on the ELBO, whose expectation is worked out, as plain autograd differentiates it."""
    x, y = task.support
    prior = torch.distributions.Normal(theta["mean"]["w"], theta["log_variance"]["w"].exp().sqrt())
    m, s = theta["mean"]["w"], theta["log_variance"]["w"]
    for _ in range(steps):
        expected = 0.5 * (((x @ m - y) ** 2).sum() + ((x**2) @ s.exp()).sum()) / task.sigma**2
        divergence = torch.distributions.kl_divergence(
            torch.distributions.Normal(m, s.exp().sqrt()), prior
        ).sum()
        slopes = torch.autograd.grad(expected + task.weight * divergence, (m, s), create_graph=True)
        m, s = m - lr * slopes[0], s - lr * slopes[1]
    return {"mean": {"w": m}, "log_variance": {"w": s}}


EXACT = [mf.Explicit(), mf.Explicit(checkpoint=True), mf.Truncated(4), mf.Binomial(order=4)]


@pytest.mark.parametrize("estimator", EXACT, ids=repr)
def test_exact_estimators_of_the_path_are_plain_autograd_through_a_loop_by_hand(estimator):
    task = conjugate()
    theta = mf.tree.map(lambda x: x.requires_grad_(), task.theta)
    outer, leaves = expected_query_loss(task), mf.tree.leaves(theta)
    wanted = torch.autograd.grad(outer(by_hand(task, theta, 4, 0.02)), leaves)
    adapt = estimator(descending(task, steps=4))
    found = mf.meta_grad(lambda phi, _: outer(phi), adapt)(task.theta, task.support, task.exact_noise, ())
    close(flat(found.grad), flat(list(wanted)), 1e-12)


@pytest.mark.parametrize("estimator", [mf.Explicit(), mf.FiniteDifference(nu=1e-4)], ids=repr)
def test_estimators_of_a_long_path_tend_to_the_closed_form(estimator):
    task = conjugate(dim=2, weight=10.0)
    adapt, outer = estimator(descending(task, steps=90, lr=0.03)), expected_query_loss(task)
    found = mf.meta_grad(lambda phi, _: outer(phi), adapt)(task.theta, task.support, task.exact_noise, ())
    for part, wanted in zip(("mean", "log_variance"), task.meta_gradient, strict=True):
        close(found.grad[part]["w"], wanted, 1e-5)


def test_first_order_passes_the_cotangent_on_and_reptile_gives_the_displacement():
    task = conjugate()
    inner = descending(task, steps=3)
    outer, noise = expected_query_loss(task), task.exact_noise
    phi = inner(task.theta, task.support, noise)
    first, reptile = (
        flat(mf.meta_grad(lambda p, _: outer(p), each(inner))(task.theta, task.support, noise, ()).grad)
        for each in (mf.FirstOrder(), mf.Reptile())
    )
    close(first, flat(grad(outer)(phi)), 1e-12)
    displacement = flat(mf.tree.sub(task.theta, phi))
    close(reptile / reptile.norm(), displacement / displacement.norm(), 1e-12)


def test_the_implicit_meta_gradient_of_its_own_noise_is_a_central_difference_of_the_solution():
    task = conjugate(dim=2)
    noise = bayes.noise(task.theta["mean"], 6, chance(), antithetic=True)
    inner, outer = solved(task), expected_query_loss(task)
    adapt = mf.Implicit(exact_solver())(inner)
    found = flat(grad(lambda t: outer(adapt(t, task.support, noise)))(task.theta))
    theta, unravel = mf.tree.ravel(task.theta)
    along, step = torch.randn(len(theta)), 1e-4
    ends = [outer(inner(unravel(theta + t * along), task.support, noise)) for t in (step, -step)]
    assert abs((ends[0] - ends[1]) / (2 * step) - found @ along) < 1e-6 * found.norm()


@pytest.mark.parametrize("estimator", [mf.Explicit(), mf.Implicit(exact_solver())], ids=repr)
def test_with_a_point_and_a_fixed_prior_it_is_imaml(estimator):
    task, variance = conjugate(), 0.4
    elbo = bayes.Elbo(task.loss, task.weight, variance=0.0)
    theta = bayes.prior(task.theta["mean"], variance)
    noise = bayes.noise(theta["mean"], 1, chance())
    options = {"lr": 0.02, "steps": 40}
    bayesian = estimator(mf.gradient_descent(**elbo.problem, **options))
    plain = estimator(mf.gradient_descent(task.loss, prox=task.weight / variance, **options))

    of_bayes = grad(
        lambda m: task.loss(bayesian({**theta, "mean": m}, task.support, noise)["mean"], task.query)
    )
    of_imaml = grad(lambda m: task.loss(plain(m, task.support), task.query))
    close(flat(of_bayes(theta["mean"])), flat(of_imaml(theta["mean"])), 1e-10)


def test_the_implicit_gradient_to_the_precision_of_a_fixed_posterior_is_that_of_a_learned_prox():
    task = conjugate()
    elbo = bayes.Elbo(task.loss, task.weight, variance=0.0)
    noise = bayes.noise(task.theta["mean"], 1, chance())
    adapt = mf.Implicit(exact_solver())(mf.newton_cg(**elbo.problem, solver=exact_solver()))
    found = grad(lambda t: task.loss(adapt(t, task.support, noise)["mean"], task.query))(task.theta)
    mean, _ = task.solution
    u, _ = task.meta_gradient
    close(found["mean"]["w"], u, 1e-8)
    close(found["log_variance"]["w"], u * (mean - task.mean), 1e-8)


@pytest.mark.parametrize("variance", [0.0, 0.3])
def test_a_fixed_variance_has_the_divergence_of_its_gaussian_but_for_the_entropy(variance):
    task = conjugate()
    elbo = bayes.Elbo(task.loss, 2.0, variance=variance)
    phi = {"mean": {"w": torch.randn(4)}}
    d = task.theta["log_variance"]["w"].exp()
    away = phi["mean"]["w"] - task.theta["mean"]["w"]
    wanted = ((away**2 + variance) / d + d.log()).sum()
    close(elbo.penalty(phi, task.theta), wanted, 1e-14)
    assert torch.allclose(elbo.posterior(phi)["log_variance"]["w"].exp(), torch.full((4,), variance))


def by_loop(elbo: bayes.Elbo):
    """The same objective, written as a sum over samples."""

    def objective(phi, theta, batch, noise) -> Tensor:
        samples = len(mf.tree.leaves(noise)[0])
        losses = [elbo.loss(bayes.sample(phi, mf.tree.index(noise, i)), batch) for i in range(samples)]
        return torch.stack(losses).mean() + elbo.penalty(phi, theta)

    return objective


@pytest.mark.parametrize("estimator", [mf.Explicit(), mf.Implicit(mf.CG(max_steps=4))], ids=repr)
def test_batch_norm_vmap_chunks_and_loops_agree_with_a_sum_over_samples(estimator):
    theta = bayes.prior(parameters(), 0.02)
    draws = chance()
    noise, noise_of_query = (
        bayes.noise(theta["mean"], 4, draws, tasks=TASKS, antithetic=True) for _ in range(2)
    )
    elbo = bayes.Elbo(classify, 0.2)

    def of(objective, tasks):
        inner = mf.gradient_descent(objective=objective, init=elbo.init, lr=0.1, steps=2)
        outer = lambda phi, query: elbo.expected(phi, *query)  # noqa: E731
        meta = mf.meta_grad(outer, estimator(inner), tasks=tasks)
        return flat(meta(theta, images(TASKS, 1), noise, (images(TASKS, 2), noise_of_query)).grad)

    wanted = of(by_loop(elbo), mf.Loop())
    ways = [
        (mf.Vmap(), mf.Vmap(chunk=2)),
        (mf.Vmap(), mf.Loop()),
        (mf.Vmap(chunk=3), mf.Vmap()),
        (mf.Loop(), mf.Vmap()),
    ]
    for sampling, tasks in ways:
        close(of(replace(elbo, sampling=sampling), tasks), wanted, 1e-12)


def test_the_order_of_grad_and_vmap_does_not_matter():
    theta, elbo = bayes.prior(parameters(), 0.02), bayes.Elbo(classify, 0.2)
    noise = bayes.noise(theta["mean"], 2, chance(), tasks=TASKS)
    adapt = mf.Explicit()(mf.gradient_descent(**elbo.problem, lr=0.1, steps=2))

    def meta_loss(theta, support, noise, query):
        return elbo.expected(adapt(theta, support, noise), query, noise)

    tasks = images(TASKS, 1), noise, images(TASKS, 2)
    inside = vmap(grad(meta_loss), (None, 0, 0, 0))(theta, *tasks)
    outside = grad(lambda t: vmap(lambda *task: meta_loss(t, *task))(*tasks).mean())(theta)
    close(flat(outside), flat(mf.tree.map(lambda x: x.mean(0), inside)), 1e-12)


def test_torch_s_own_mean_squared_error_works_under_all_maps():
    params = {"w": torch.randn(3)}
    theta, elbo = bayes.prior(params, 0.1), bayes.Elbo(lambda p, b: F.mse_loss(b[0] @ p["w"], b[1]), 0.1)
    batch = torch.randn(TASKS, 5, 3), torch.randn(TASKS, 5)
    noise = bayes.noise(params, 4, chance(), tasks=TASKS)
    for estimator in (mf.Explicit(), mf.Implicit()):
        adapt = estimator(mf.gradient_descent(**elbo.problem, lr=0.1, steps=3))
        gradients = [
            mf.meta_grad(lambda phi, q: elbo.expected(phi, *q), adapt, tasks=tasks)(
                theta, batch, noise, (batch, noise)
            )
            for tasks in (mf.Vmap(), mf.Loop())
        ]
        close(flat(gradients[0].grad), flat(gradients[1].grad), 1e-9)


def test_a_nan_in_a_sample_is_told_by_check():
    task = conjugate()
    noise = {"w": task.exact_noise["w"].clone()}
    noise["w"][2, 1] = torch.nan
    outer = expected_query_loss(task)
    result = mf.meta_grad(lambda phi, _: outer(phi), mf.Explicit()(descending(task, steps=2)))(
        task.theta, task.support, noise, ()
    )
    with pytest.raises(mf.CheckError, match="the outer loss is not finite"):
        mf.check(result)


TASK = conjugate()
ELBO = bayes.Elbo(TASK.loss)


def run(elbo=ELBO, theta=None, noise=TASK.exact_noise):
    adapt = mf.Explicit()(mf.gradient_descent(**elbo.problem, lr=0.1, steps=1))
    return adapt(TASK.theta if theta is None else theta, TASK.support, noise)


DRAW = "Draw it with mf.bayes.noise(params, samples, generator), and pass it as the last data argument."
BUILD = "Build it with mf.bayes.prior(params, variance=0.01)."
NOISE = "noise at ['w']: expected a floating-point tensor [samples, 4] with at least one sample, got"
WRONG = {
    "loss": (
        lambda: bayes.Elbo(3),
        TypeError,
        "loss: expected a function loss(params, *data) -> scalar, got int 3.",
    ),
    "weight": (
        lambda: bayes.Elbo(TASK.loss, 0.0),
        ValueError,
        "kl_weight: expected a positive number, got 0.0. Give kl_weight such a value, e.g. kl_weight=1 for a sum of losses, 1 / n for a mean of n.",
    ),
    "variance": (
        lambda: bayes.Elbo(TASK.loss, variance=-1.0),
        ValueError,
        "variance: expected None or a number of at least 0, got -1.0. Give variance such a value, e.g. variance=0.0, or leave it out.",
    ),
    "sampling": (
        lambda: bayes.Elbo(TASK.loss, sampling=4),
        TypeError,
        "sampling: expected mf.Vmap(), mf.Vmap(chunk=...) or mf.Loop(), got int 4. Give sampling one of these.",
    ),
    "theta": (
        lambda: run(theta={"w": torch.zeros(4)}),
        TypeError,
        f'theta: expected a mapping with "mean" and "log_variance", got a mapping with [\'w\']. {BUILD}',
    ),
    "shapes of theta": (
        lambda: run(theta={"mean": {"w": torch.zeros(4)}, "log_variance": {"w": torch.zeros(1)}}),
        ValueError,
        f"theta log_variance at ['w']: expected [4], one number for every mean, got [1]. {BUILD}",
    ),
    "noise without samples": (
        lambda: run(noise={"w": torch.zeros(0, 4)}),
        ValueError,
        f"{NOISE} float64[0, 4] on cpu. {DRAW}",
    ),
    "noise of another shape": (
        lambda: run(noise={"w": torch.zeros(4)}),
        ValueError,
        f"{NOISE} float64[4] on cpu. {DRAW}",
    ),
    "a vector loss": (
        lambda: run(bayes.Elbo(lambda p, b: b[0] @ p["w"])),
        ValueError,
        "loss: expected a scalar tensor, got float64[7]",
    ),
    "no data": (
        lambda: ELBO(TASK.theta, TASK.theta),
        TypeError,
        (
            "Elbo: expected the data of a task and its noise, got no data. "
            "Pass the noise last: adapt(theta, support, mf.bayes.noise(params, samples, generator))."
        ),
    ),
}


@pytest.mark.parametrize(("make", "kind", "text"), WRONG.values(), ids=WRONG)
def test_errors_say_what_to_do(make, kind, text):
    with pytest.raises(kind, match=f"^{re.escape(text)}"):
        make()


def test_a_captured_tensor_gets_its_gradient_inside_the_loss():
    def outer(scale: Tensor) -> Tensor:
        elbo = bayes.Elbo(lambda p, b: scale * TASK.loss(p, b))
        return run(elbo)["mean"]["w"].sum()

    one, step = torch.tensor(1.0), 1e-5
    difference = (outer(one + step) - outer(one - step)) / (2 * step)
    assert difference.abs() > 1e-3
    torch.testing.assert_close(grad(outer)(one), difference, rtol=1e-6, atol=0.0)
