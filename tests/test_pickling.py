"""Inner problems and what is made of them are pickled and copied as what they were made from."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad

import metafunc as mf
from metafunc import bayes
from tests.tasks import close

THETA, DATA = torch.linspace(-1.0, 1.0, 3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)


def loss(phi: Tensor, target: Tensor) -> Tensor:
    return (phi - target).square().sum() + phi.pow(4).sum()


def rate(theta: Tensor) -> Tensor:
    return 0.01 * (1 + theta.square().mean())


def objective(phi: Tensor, theta: Tensor, target: Tensor) -> Tensor:
    return (phi - target).square().sum() + (phi - theta).square().sum()


@mf.Implicit(mf.CG(5))
@mf.minimizes(objective)
def decorated(theta: Tensor, target: Tensor) -> Tensor:
    return (theta + target) / 2


@mf.iterates(steps=3)
def stepped(phi: Tensor, theta: Tensor, target: Tensor) -> Tensor:
    return phi - 0.1 * (phi - target + theta)


def solved(theta: Tensor, target: Tensor) -> Tensor:
    return (theta + target) / 2


ADAPTS: dict[str, Callable[[], Any]] = {
    "descent": lambda: mf.Truncated(2)(mf.gradient_descent(loss, lr=rate, steps=3)),
    "tensor": lambda: mf.Explicit()(mf.gradient_descent(loss, lr=torch.tensor(0.01), steps=3, momentum=0.5)),
    "adam": lambda: mf.Binomial(1)(mf.adam(loss, lr=0.1, steps=3)),
    "nesterov": lambda: mf.Explicit(checkpoint=True)(mf.nesterov(loss, smoothness=20.0, steps=3, prox=1.0)),
    "newton": lambda: mf.Implicit(mf.Direct())(mf.newton_cg(loss, prox=1.0, steps=5)),
    "partial": lambda: mf.FirstOrder()(
        mf.optimizer_loop(loss, functools.partial(torch.optim.SGD, lr=0.1), steps=2)
    ),
    "hessian batch": lambda: mf.Explicit()(
        mf.with_hessian_batch(mf.gradient_descent(loss, lr=0.01, steps=2))
    ),
    "decorated": lambda: decorated,
    "decorated without an estimator": lambda: mf.Truncated(2)(stepped),
    "declared": lambda: mf.Implicit(mf.Direct())(mf.minimizes(objective)(solved)),
}


@pytest.mark.parametrize("copied", [lambda x: pickle.loads(pickle.dumps(x)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("name", ADAPTS)
def test_a_copy_does_what_the_original_does(name: str, copied: Callable[[Any], Any]) -> None:
    adapt = ADAPTS[name]()
    other = copied(adapt)
    data = (DATA, 2 * DATA) if name == "hessian batch" else (DATA,)
    assert repr(other) == repr(adapt)
    for x in (adapt, other):
        assert torch.equal(x(THETA, *data), adapt(THETA, *data))
    slopes = [grad(lambda t, a=a: a(t, *data).pow(3).sum())(THETA) for a in (adapt, other)]
    assert slopes[0].norm() > 1e-3
    close(slopes[1], slopes[0], 1e-14)


def test_a_module_as_functions() -> None:
    torch.manual_seed(0)
    model = mf.functional(
        nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1)), F.mse_loss, randomness="same"
    )
    adapt = mf.Truncated(2)(mf.with_step_keys(mf.gradient_descent(**model.problem, lr=0.1, steps=2)))
    other = pickle.loads(pickle.dumps(adapt))
    batch, key = (torch.ones(5, 3), torch.zeros(5, 1)), torch.tensor(3)
    first, second = (a(model.theta, batch, key) for a in (adapt, other))
    for a, b in zip(first.values(), second.values(), strict=True):
        assert torch.equal(a, b)


def test_a_bayesian_problem() -> None:
    elbo = bayes.Elbo(loss, kl_weight=0.1)
    inner = bayes.fixed_point(mf.gradient_descent(**elbo.problem, lr=0.01, steps=2))
    theta = {"mean": THETA, "log_variance": torch.zeros(3)}
    noise = torch.randn(1, 3)
    first, second = (a(theta, DATA, noise) for a in (inner, pickle.loads(pickle.dumps(inner))))
    assert torch.equal(first["mean"], second["mean"])


def test_what_has_no_name() -> None:
    @mf.minimizes(objective)
    def local(theta: Tensor, target: Tensor) -> Tensor:
        return theta

    text = "local: expected an inner problem of functions that their modules have by name, got one that could not"
    with pytest.raises(TypeError, match=text):
        pickle.dumps(local)
