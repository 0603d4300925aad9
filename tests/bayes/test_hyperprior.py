import re

import pytest
import torch
from scipy.stats import gamma

from metafunc import bayes


def test_it_is_the_density_of_a_gamma_distribution_of_precisions():
    theta = bayes.prior(
        {"a": torch.zeros(3), "b": torch.zeros(2)}, {"a": torch.tensor([0.1, 1.0, 4.0]), "b": 0.5}
    )
    variances = [0.1, 1.0, 4.0, 0.5, 0.5]
    for shape, rate in ((1.0, 0.01), (2.5, 0.3)):
        wanted = -sum(gamma.logpdf(1 / d, shape, scale=1 / rate) for d in variances)
        assert bayes.gamma_hyperprior(theta, shape, rate).item() == pytest.approx(wanted)


def test_it_pushes_small_variances_up():
    theta = bayes.prior({"w": torch.zeros(2)}, 1e-6)
    slope = torch.func.grad(bayes.gamma_hyperprior)(theta)["log_variance"]["w"]
    assert torch.allclose(slope, torch.full((2,), -0.01 / 1e-6))


def test_it_runs_under_vmap_and_is_refused_other_parameters():
    theta = bayes.prior({"w": torch.zeros(4, 2)}, 0.1)
    assert torch.func.vmap(bayes.gamma_hyperprior)(theta).shape == (4,)
    with pytest.raises(
        ValueError,
        match=f"^{re.escape('rate: expected a positive number, got 0. Give rate such a value, e.g. rate=1.0.')}$",
    ):
        bayes.gamma_hyperprior(theta, rate=0)
