import re

import numpy as np
import pytest
import torch
from scipy.stats import norm

import metafunc as mf
from metafunc import bayes


def test_outputs_are_those_of_every_sample():
    posterior = {"mean": {"w": torch.randn(3)}, "log_variance": {"w": torch.randn(3)}}
    noise, x = {"w": torch.randn(5, 3)}, torch.randn(7, 3)
    wanted = x @ (posterior["mean"]["w"] + torch.exp(posterior["log_variance"]["w"] / 2) * noise["w"]).T
    for sampling in (mf.Vmap(), mf.Vmap(chunk=2), mf.Loop()):
        found = bayes.predict(lambda p, x: x @ p["w"], posterior, noise, x, sampling=sampling)
        assert torch.allclose(found, wanted.T)


def test_class_probabilities_are_means_over_samples():
    logits = 3 * torch.randn(4, 6, 3)
    powers = np.exp(logits.numpy())
    wanted = (powers / powers.sum(-1, keepdims=True)).mean(0)
    assert np.allclose(bayes.class_log_probabilities(logits).exp().numpy(), wanted)


def test_far_logits_do_not_overflow():
    found = bayes.class_log_probabilities(torch.tensor([[[1e4, 0.0]], [[1e4, 0.0]]]))
    assert found.tolist() == [[0.0, -1e4]]


def test_the_moments_of_a_regression_are_those_of_the_mixture():
    outputs, std = torch.randn(8, 5), 0.7
    found = bayes.regression(outputs, std)
    draws = outputs[:, None].numpy() + std * np.random.default_rng(0).standard_normal((8, 200_000, 5))
    assert np.allclose(found.mean, draws.mean((0, 1)), atol=0.01)
    assert np.allclose(found.std, draws.reshape(-1, 5).std(0), atol=0.01)
    assert torch.allclose(found.spread**2 + std**2, found.std**2)


def test_the_likelihood_of_a_regression_is_that_of_the_mixture():
    outputs, targets, std = torch.randn(4, 5), torch.randn(5), 0.6
    wanted = -np.log(norm.pdf(targets.numpy(), outputs.numpy(), std).mean(0))
    assert np.allclose(bayes.regression_nll(outputs, targets, std).numpy(), wanted)


def test_the_predictive_likelihood_is_no_worse_than_the_mean_of_the_samples():
    outputs, targets = torch.randn(4, 5), torch.randn(5)
    each = torch.stack([bayes.regression_nll(o[None], targets, 0.5) for o in outputs]).mean(0)
    assert (bayes.regression_nll(outputs, targets, 0.5) < each).all()


WRONG = {
    "negative noise": (
        lambda: bayes.regression(torch.zeros(2, 3), -1.0),
        "noise_std: expected a number of at least 0, got -1.0. Give noise_std such a value, e.g. noise_std=0.1.",
    ),
    "no noise": (
        lambda: bayes.regression_nll(torch.zeros(2, 3), torch.zeros(3), 0.0),
        "noise_std: expected a positive number, got 0.0. Give noise_std such a value, e.g. noise_std=0.1.",
    ),
    "shapes": (
        lambda: bayes.regression_nll(torch.zeros(2, 3), torch.zeros(3, 1), 1.0),
        (
            "outputs, targets: expected outputs [samples, ...] and targets [...], got float64[2, 3] on cpu and "
            "float64[3, 1] on cpu. Pass what mf.bayes.predict returned, samples first."
        ),
    ),
}


@pytest.mark.parametrize(("make", "text"), WRONG.values(), ids=WRONG)
def test_errors_say_what_to_do(make, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        make()
