import re

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from metafunc import bayes
from tests.tasks import close


def test_the_divergence_is_that_of_two_normal_distributions():
    q, p = (
        {part: {"a": torch.randn(2), "b": torch.randn(1)} for part in ("mean", "log_variance")} for _ in "qp"
    )

    def dense(gaussian):
        mean, logs = (torch.cat(list(gaussian[part].values())) for part in ("mean", "log_variance"))
        return MultivariateNormal(mean, torch.diag(logs.exp()))

    close(bayes.kl(q, p), kl_divergence(dense(q), dense(p)), 1e-12)
    assert bayes.kl(q, q) == 0


def test_the_divergence_of_near_neighbours_keeps_its_digits():
    p = bayes.prior({"w": torch.zeros(1)}, 1.0)
    q = {"mean": p["mean"], "log_variance": {"w": torch.tensor([1e-6])}}
    close(bayes.kl(q, p), 0.25e-12, 1e-3)


def test_a_prior_around_a_module_has_its_trained_parameters():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    net[0].requires_grad_(False)
    theta = bayes.prior(net, 0.25)
    assert list(theta["mean"]) == ["1.weight", "1.bias"]
    assert not any(x.requires_grad for x in theta["mean"].values())
    assert all(torch.allclose(s.exp(), torch.tensor(0.25)) for s in theta["log_variance"].values())


def test_variances_may_be_a_tree_of_what_broadcasts():
    theta = bayes.prior([torch.zeros(2, 3), torch.zeros(2)], [torch.tensor([1.0, 2.0, 3.0]), 4.0])
    assert torch.allclose(theta["log_variance"][0].exp(), torch.tensor([1.0, 2.0, 3.0]).expand(2, 3))
    assert torch.allclose(theta["log_variance"][1].exp(), torch.tensor(4.0))


def variance(path: str, smallest: str) -> str:
    return (
        f"variance at {path}: expected finite numbers above 0, got {smallest}. Give variances, not their logarithms; "
        "for a parameter without uncertainty use Elbo(..., variance=0.0)."
    )


W = {"w": torch.zeros(2)}
BUILD = "Build it with mf.bayes.prior(params, variance=0.01)."
WRONG = {
    "zero": (lambda: bayes.prior(W, 0.0), ValueError, variance("['w']", "0")),
    "negative": (lambda: bayes.prior(W, torch.tensor([1.0, -2.0])), ValueError, variance("['w']", "-2")),
    "infinite": (lambda: bayes.prior(W, float("inf")), ValueError, variance("['w']", "inf")),
    "NaN": (lambda: bayes.prior(W, float("nan")), ValueError, variance("['w']", "nan")),
    "another shape": (
        lambda: bayes.prior(W, torch.ones(3)),
        ValueError,
        f"variance at ['w']: expected [2], one number for every mean, got [3]. {BUILD}",
    ),
    "another tree": (lambda: bayes.prior(W, {"v": 1.0}), ValueError, "variance at .: expected "),
    "nothing": (lambda: bayes.prior({}), ValueError, "params: expected a tree with at least one tensor"),
    "integers": (
        lambda: bayes.prior({"w": torch.ones(2, dtype=torch.int64)}),
        TypeError,
        "params at ['w']: expected",
    ),
}


@pytest.mark.parametrize(("make", "kind", "text"), WRONG.values(), ids=WRONG)
def test_errors_say_what_to_do(make, kind, text):
    with pytest.raises(kind, match=f"^{re.escape(text)}"):
        make()
