"""The adaptive step size: what it observes, with MetaOptimizer, and its bound on the smoothness of the objective."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import metafunc as mf
from metafunc.optim import ClippedGD, NormalizedGD, SmoothnessAdaptiveGD, gradient_norms
from tests.optim.problem import CONSTANTS, NORMS, adaptive, parameters, values

ALPHA = 0.05


def tasks(seed: int = 0) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((4, 6, 3), (4, 3)))
    return dict.fromkeys(("support", "query"), (x, x @ w[..., None] + 1.0))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1, dtype=torch.float64)


def meta_with(module: nn.Module, optimizer: torch.optim.Optimizer) -> mf.MetaOptimizer:
    def inner(problem: dict[str, Any]) -> mf.Inner:
        return mf.gradient_descent(**problem, lr=ALPHA, steps=1)

    return mf.MetaOptimizer(module, F.mse_loss, optimizer, inner)


def test_the_norms_are_those_of_every_task():
    batch, theta = tasks()["support"], dict(net().named_parameters())
    model = meta_with(module := net(), torch.optim.SGD(module.parameters(), lr=1.0)).model
    found = gradient_norms(model, theta, batch)
    weight, bias = (theta[name].detach().numpy() for name in ("weight", "bias"))
    wanted = []
    for x, y in zip(batch[0].numpy(), batch[1].numpy(), strict=True):
        left = 2 * (x @ weight.T + bias - y) / len(y)
        wanted.append(np.sqrt(((left.T @ x) ** 2).sum() + left.sum() ** 2))
    assert not found.requires_grad
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert np.ptp(wanted) > 0.5


def test_the_outer_loop_of_a_module():
    module, reference = net(), net()
    meta = meta_with(module, optimizer := SmoothnessAdaptiveGD(module.parameters(), 1 / 12, **CONSTANTS))
    plain = meta_with(reference, torch.optim.SGD(reference.parameters(), lr=1.0))
    batch, others = tasks(), tasks(1)
    norms = gradient_norms(meta.model, meta.model.theta, others["support"])
    optimizer.observe(norms)
    meta.step(batch)
    plain.backward(batch)
    size = 1 / 12 / (4 * 2.5 + 2 * 1.5 * 0.04 * norms.mean())
    for p, q in zip(module.parameters(), reference.parameters(), strict=True):
        np.testing.assert_allclose(p.detach(), (q - size * q.grad).detach(), rtol=0, atol=1e-12)


OTHERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "normalized": lambda params: NormalizedGD(params, 0.2, beta=1.0),
    "clipped": lambda params: ClippedGD(params, 0.2, clip=1.0),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_the_other_optimizers_lower_the_loss_of_a_module(make):
    module = net()
    meta = meta_with(module, make(module.parameters()))
    losses = [meta.step(tasks()).loss.item() for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]
    assert all(later <= earlier for earlier, later in itertools.pairwise(losses))


def test_with_quadratic_tasks_the_norms_do_not_matter():
    params, slopes = parameters(5.0)
    before = values(params)
    optimizer = SmoothnessAdaptiveGD(params, 1.0, **CONSTANTS | {"hessian_lipschitz": 0.0})
    optimizer.observe(1e6 * NORMS)
    optimizer.step()
    np.testing.assert_allclose(values(params)[0], before[0] - slopes[0] / 10, rtol=0, atol=1e-12)


def test_the_estimate_bounds_the_smoothness_of_the_objective():
    """Lemma 4.8 on f_i(w) = a_i log cosh(w - c_i), for which L = max a_i and rho = max a_i * 4 / (3 sqrt 3)."""
    a, c = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64), torch.tensor([-1.0, 2.0, 0.5]).double()
    alpha, smooth, rho = 0.3, 2.0, 2.0 * 4 / (3 * 3**0.5)

    def objective(w):
        return (a * torch.cosh(w - alpha * a * torch.tanh(w - c) - c).log()).mean()

    for w in torch.linspace(-4, 4, 41, dtype=torch.float64):
        curvature = torch.func.hessian(objective)(w)
        norms = gradient_norms(
            lambda w, task: task[0] * torch.cosh(w - task[1]).log(), w, torch.stack([a, c], dim=1)
        )
        optimizer = SmoothnessAdaptiveGD(
            [p := torch.zeros(1, dtype=torch.float64, requires_grad=True)],
            1.0,
            smoothness=smooth,
            hessian_lipschitz=rho,
            inner_lr=alpha,
        )
        p.grad = torch.ones_like(p)
        optimizer.observe(norms)
        optimizer.step()
        assert curvature.abs() <= -1 / p.item()


def test_norms_serve_one_step_only():
    params, _ = parameters()
    optimizer = adaptive(params)
    optimizer.step()
    before = values(params)
    text = (
        "SmoothnessAdaptiveGD.step: expected the norms of the task gradients at the present theta, got none since the "
        "last step. Call optimizer.observe(gradient_norms(loss, theta, support)) before every step."
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(text)}$"):
        optimizer.step()
    assert all((a == b).all() for a, b in zip(values(params), before, strict=True))


@pytest.mark.parametrize("norms", [torch.tensor(1.0), torch.zeros(0), torch.ones(2, 2)])
def test_only_a_vector_of_norms_is_taken(norms):
    text = (
        f"SmoothnessAdaptiveGD.observe: expected a vector of at least one norm, got the shape {list(norms.shape)}. "
        "Pass one norm a task, as gradient_norms(loss, theta, support) returns them."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        adaptive(parameters()[0]).observe(norms)
