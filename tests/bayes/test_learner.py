import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import metafunc as mf
from metafunc import bayes
from tests.bayes.problem import flat


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))


def descent(steps: int = 2, lr: float = 0.05):
    return lambda problem: mf.gradient_descent(**problem, lr=lr, steps=steps)


def build(
    estimator: mf.Estimator | None = None, variance: float = 0.01, lr: float = 0.01, **options
) -> bayes.BayesianLearner:
    prior = bayes.Prior(net(), variance)
    optimizer = torch.optim.SGD(prior.parameters(), lr=lr)
    settings = {"kl_weight": 0.1, "samples": 3, "test_samples": 4} | options
    return bayes.BayesianLearner(
        prior, F.mse_loss, optimizer, descent(), estimator or mf.Explicit(), **settings
    )


def tasks_of_sinusoids() -> mf.data.Sinusoids:
    return mf.data.Sinusoids(shots=5, queries=6, dtype=torch.float64)


def batch(tasks: int = 4, seed: int = 0):
    return tasks_of_sinusoids().sample(tasks, torch.Generator().manual_seed(seed))


def parameters(learner: bayes.BayesianLearner) -> torch.Tensor:
    return flat(learner.prior.theta)


def grads(learner: bayes.BayesianLearner) -> torch.Tensor:
    return flat(mf.tree.map(lambda p: p.grad, learner.prior.parts))


@pytest.mark.parametrize(
    "estimator", [mf.Explicit(), mf.Implicit(), mf.FirstOrder(), mf.Binomial(1)], ids=repr
)
def test_maps_chunks_and_loops_make_the_same_step(estimator):
    found = []
    for tasks in (mf.Vmap(), mf.Vmap(chunk=3), mf.Loop()):
        learner = build(estimator, tasks=tasks)
        learner.step(batch())
        found.append(parameters(learner))
    assert torch.allclose(found[0], found[1], rtol=1e-9)
    assert torch.allclose(found[0], found[2], rtol=1e-9)


def test_means_and_log_variances_both_move_down_the_gradient():
    learner = build()
    before = parameters(learner)
    outcome = learner.step(batch())
    assert torch.allclose(before - 0.01 * grads(learner), parameters(learner))
    for part in ("mean", "log_variance"):
        assert flat(mf.tree.map(lambda p: p.grad, learner.prior.parts[part])).norm() > 1e-6
    assert outcome.grad_norm is not None
    assert outcome.grad_norm.item() == pytest.approx(grads(learner).norm().item())


def test_the_gradient_is_that_of_the_loss_it_reports():
    def value(theta: torch.Tensor) -> torch.Tensor:
        learner = build(lr=0.0)
        _, unravel = mf.tree.ravel(learner.prior.theta)
        mf.tree.map(lambda p, x: p.data.copy_(x), learner.prior.parts, unravel(theta))
        return learner.step(batch()).loss

    learner = build(lr=0.0)
    learner.step(batch())
    theta, along = parameters(learner), torch.randn(parameters(learner).shape)
    difference = (value(theta + 1e-5 * along) - value(theta - 1e-5 * along)) / 2e-5
    assert difference.item() == pytest.approx((grads(learner) @ along).item(), rel=1e-6)


def test_a_frozen_variance_is_left_alone():
    learner = build()
    learner.prior.log_variance.requires_grad_(False)
    before = parameters(learner)
    learner.step(batch())
    moved = (before != parameters(learner)).nonzero().flatten()
    assert 0 < len(moved) <= len(before) // 2


def test_a_point_without_spread_is_a_meta_optimizer():
    learner = build(variance=1.0, kl_weight=1e-14, samples=1)
    point = bayes.BayesianLearner(
        learner.prior, F.mse_loss, learner.optimizer, descent(), kl_weight=1e-14, samples=1, variance=0.0
    )
    module = net()
    plain = mf.MetaOptimizer(module, F.mse_loss, torch.optim.SGD(module.parameters(), lr=0.01), descent())
    assert point.step(batch()).loss.item() == pytest.approx(plain.step(batch()).loss.item(), rel=1e-9)
    means = torch.cat([p.detach().flatten() for p in point.prior.module.parameters()])
    assert torch.allclose(means, torch.cat([p.detach().flatten() for p in module.parameters()]), rtol=1e-9)


def test_every_step_has_noise_of_its_own_and_evaluation_always_the_same():
    learner = build(lr=0.0)
    losses = [learner.step(batch()).loss for _ in range(2)]
    assert losses[0] != losses[1]
    found = [learner.evaluate(batch())["loss"] for _ in range(2)]
    assert torch.equal(*found)
    assert found[0].shape == (4,)
    assert len(found[0].unique()) == 4


def test_inner_and_outer_loss_have_noise_of_their_own(monkeypatch):
    drawn = []

    def recording(*args, **kwargs):
        drawn.append(bayes.noise(*args, **kwargs))
        return drawn[-1]

    learner = build()
    monkeypatch.setattr("metafunc.bayes.learner.noise", recording)
    learner.step(batch())
    learner.evaluate(batch())
    train, test = drawn[:2], drawn[2:]
    for inside, outside in (train, test):
        assert not torch.equal(flat(inside), flat(outside))


def test_predictions_are_what_evaluation_measures():
    learner = build(metrics={"nll": lambda outputs, y: bayes.regression_nll(outputs, y, 1.0).mean()})
    tasks = batch()
    outputs = learner.predict(tasks)
    assert outputs.shape == (4, 4, 6, 1)
    scores = learner.evaluate(tasks)
    wanted = ((outputs - tasks["query"][1][:, None]) ** 2).mean((1, 2, 3))
    assert torch.allclose(scores["loss"], wanted)
    each = torch.stack(
        [bayes.regression_nll(o, y, 1.0).mean() for o, y in zip(outputs, tasks["query"][1], strict=True)]
    )
    assert torch.allclose(scores["nll"], each)


def test_the_hyperprior_is_added_to_the_outer_loss():
    plain, with_it = build(), build(hyperprior=lambda theta: 1e-4 * bayes.gamma_hyperprior(theta))
    prior = 1e-4 * bayes.gamma_hyperprior(plain.prior.theta).item()
    assert with_it.step(batch()).loss.item() == pytest.approx(plain.step(batch()).loss.item() + prior)
    slope = (grads(with_it) - grads(plain)).reshape(2, -1)
    assert torch.allclose(slope[0], torch.zeros(()))
    assert torch.allclose(slope[1], torch.tensor(-1e-4 * 0.01 / 0.01))


def test_it_learns_under_the_training_loop(tmp_path):
    pytest.importorskip("rich")
    prior = bayes.Prior(net(), 1e-3)
    learner = bayes.BayesianLearner(
        prior,
        F.mse_loss,
        torch.optim.Adam(prior.parameters(), 0.03),
        descent(),
        kl_weight=1e-3,
        samples=2,
        clip=10.0,
    )
    tasks = mf.data.Sinusoids(shots=5, queries=5, dtype=torch.float64)
    before = learner.evaluate(batch(50))["loss"].mean()
    mf.training.train(learner, tasks, steps=40, batch=4, folder=tmp_path, tensorboard=False, show=False)
    assert learner.evaluate(batch(50))["loss"].mean() < 0.95 * before


def test_a_run_goes_on_where_its_state_was_taken():
    whole, first, second = (build() for _ in range(3))
    for seed in range(4):
        whole.step(batch(seed=seed))
    for seed in range(2):
        first.step(batch(seed=seed))
    second.load_state_dict(first.state_dict())
    for seed in range(2, 4):
        second.step(batch(seed=seed))
    assert torch.equal(parameters(whole), parameters(second))


def test_clipping_and_the_scheduler():
    prior = bayes.Prior(net())
    optimizer = torch.optim.SGD(prior.parameters(), lr=1.0)
    learner = bayes.BayesianLearner(
        prior, F.mse_loss, optimizer, descent(), kl_weight=1.0, clip=1e-3,
        scheduler=torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
    )  # fmt: skip
    before = parameters(learner)
    learner.step(batch())
    assert (parameters(learner) - before).norm().item() == pytest.approx(1e-3, rel=1e-3)
    assert math.isclose(optimizer.param_groups[0]["lr"], 0.5)


def learner_with(**options):
    return bayes.BayesianLearner(
        bayes.Prior(net()), F.mse_loss, **({"inner": descent(), "kl_weight": 1.0} | options)
    )


SGD = torch.optim.SGD
WRONG = {
    "prior": (
        lambda: bayes.BayesianLearner(net(), F.mse_loss, SGD(net().parameters()), descent(), kl_weight=1.0),
        TypeError,
        "prior: expected an mf.bayes.Prior, got Sequential Sequential(",
    ),
    "optimizer": (
        lambda: learner_with(optimizer=SGD(net().parameters())),
        ValueError,
        (
            "optimizer: expected an optimizer of the prior's own parameters, got one in which 4 of 4 parameters are "
            "not the prior's. Build it from prior.parameters(), after the prior was moved to its device."
        ),
    ),
    "no optimizer": (
        lambda: learner_with(optimizer=3),
        TypeError,
        "optimizer: expected a torch.optim optimizer",
    ),
    "clip": (
        lambda: build(clip=0.0),
        ValueError,
        "clip: expected None or a positive number, got 0.0. Give clip such a value, e.g. clip=10.0, or leave it out.",
    ),
    "samples": (
        lambda: build(samples=0),
        ValueError,
        "samples: expected an integer of at least 1, got 0.",
    ),
    "antithetic": (lambda: build(samples=3, antithetic=True), ValueError, "samples: expected an even number"),
    "tasks": (
        lambda: build().step({"support": ()}),
        ValueError,
        'tasks: expected a mapping with "support" and "query", or a pair of these, got a mapping with [\'support\'].',
    ),
    "state": (
        lambda: build().load_state_dict(build(mf.FirstOrder()).state_dict()),
        ValueError,
        "state: expected that of a loop with estimator=Bayesian Explicit(), got that of one with estimator=Bayesian FirstOrder()",
    ),
}


@pytest.mark.parametrize(("make", "kind", "text"), WRONG.values(), ids=WRONG)
def test_errors_say_what_to_do(make, kind, text):
    with pytest.raises(kind, match=f"^{re.escape(text)}"):
        make()


def test_an_outer_loss_of_all_samples_takes_the_place_of_the_mean_over_them():
    def pooled(outputs, targets):
        return bayes.regression_nll(outputs, targets, 0.5).mean()

    tasks, theta = batch(3), build().prior.theta
    one, two = build(outer_loss=pooled), build(outer_loss=pooled, hyperprior=lambda theta: flat(theta).sum())
    metric = build(metrics={"pooled": pooled})
    found = one.evaluate(tasks)["loss"]
    assert torch.equal(found, metric.evaluate(tasks)["pooled"])
    assert not torch.allclose(found, metric.evaluate(tasks)["loss"])
    steps = one.step(tasks), two.step(tasks), metric.step(tasks)
    assert steps[0].loss.item() == pytest.approx(steps[2].metrics["pooled"].item())
    # A sum as the hyper-prior has the gradient 1 in every number.
    assert torch.allclose(grads(two), grads(one) + 1)
    assert steps[1].loss.item() == pytest.approx((steps[0].loss + flat(theta).sum()).item())


def test_the_gradient_of_a_pooled_loss_is_that_of_differences():
    def pooled(outputs, targets):
        return bayes.regression_nll(outputs, targets, 0.5).mean()

    tasks, push = batch(2), 1e-5
    learner = build(outer_loss=pooled)
    before = parameters(learner).clone()
    learner.step(tasks)
    slopes = grads(learner)
    direction = torch.randn(before.shape, generator=torch.Generator().manual_seed(3), dtype=before.dtype)

    def loss_at(shift: float) -> float:
        moved = build(outer_loss=pooled)
        start = 0
        for part in moved.prior.parts.values():
            for p in part.values():
                p.data += shift * direction[start : start + p.numel()].reshape(p.shape)
                start += p.numel()
        return moved.step(tasks).loss.item()

    found = (loss_at(push) - loss_at(-push)) / (2 * push)
    assert found == pytest.approx((slopes @ direction).item(), rel=1e-6)


def test_an_outer_loss_that_is_no_scalar_is_refused():
    learner = build(outer_loss=lambda outputs, targets: outputs - targets)
    with pytest.raises(ValueError, match="outer_loss: expected"):
        learner.step(batch())
    with pytest.raises(
        TypeError, match=r"outer_loss: expected .*outer_loss\(outputs, targets\) -> scalar.*got str"
    ):
        build(outer_loss="predictive")


def test_the_outer_loss_has_samples_of_its_own():
    tasks, learner = batch(2), build(seed=3)
    theta = learner.prior.theta
    draws = torch.Generator().manual_seed(3 * 1_000_003)
    inside, outside = (bayes.noise(theta["mean"], 3, draws, tasks=2) for _ in range(2))
    elbo = bayes.Elbo(mf.functional(learner.prior.module, F.mse_loss), kl_weight=0.1)
    solve = descent()(elbo.problem)
    wanted = []
    for i in range(2):
        support, query, z, other = (
            mf.tree.index(x, i) for x in (tasks["support"], tasks["query"], inside, outside)
        )
        wanted.append(elbo.expected(solve(theta, support, z), query, other))
    assert learner.step(tasks).loss.item() == pytest.approx(torch.stack(wanted).mean().item(), rel=1e-12)


def test_evaluation_adapts_as_it_is_told_to():
    tasks = batch()
    as_told, longer = build(test_inner=descent(steps=6)), build()
    longer = bayes.BayesianLearner(
        longer.prior, F.mse_loss, longer.optimizer, descent(steps=6), kl_weight=0.1, samples=3, test_samples=4
    )
    assert torch.equal(as_told.evaluate(tasks)["loss"], longer.evaluate(tasks)["loss"])
    assert torch.equal(as_told.predict(tasks), longer.predict(tasks))
    assert not torch.allclose(as_told.evaluate(tasks)["loss"], build().evaluate(tasks)["loss"])
