"""What the outer optimizers share: the update, groups, states, schedulers, and what they refuse."""

from __future__ import annotations

import copy
import io
import re

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR

from metafunc.optim import ClippedGD, NormalizedGD, SmoothnessAdaptiveGD
from tests.optim.problem import CONSTANTS, MAKE, NORMS, parameters, step_size, values

every = pytest.mark.parametrize("name", MAKE)


def close(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@every
@pytest.mark.parametrize("scale", [1e-3, 1.0, 2.0, 5.0, 1e3])
def test_the_update_is_that_of_the_paper(name, scale):
    params, slopes = parameters(scale)
    before = values(params)
    MAKE[name](params).step()
    size = step_size(name, scale)
    close(values(params), [x - size * g for x, g in zip(before, slopes, strict=True)])


@every
def test_the_gradient_stays_as_it_is(name):
    params, slopes = parameters(5.0)
    MAKE[name](params).step()
    close([p.grad.numpy() for p in params], slopes)


@every
def test_the_norm_is_that_of_all_groups_and_the_options_are_each_group_s_own(name):
    params, slopes = parameters(5.0)
    before = values(params)
    MAKE[name]([{"params": params[:1], "lr": 0.05}, {"params": params[1:]}]).step()
    sizes = [step_size(name, 5.0, lr) for lr in (0.05, 0.3, 0.3)]
    close(values(params), [x - s * g for x, s, g in zip(before, sizes, slopes, strict=True)])


def test_a_group_may_have_its_own_threshold():
    params, slopes = parameters(5.0)
    before = values(params)
    NormalizedGD([{"params": params[:2], "beta": 3.0}, {"params": params[2:]}], lr=1.0, beta=1.0).step()
    sizes = (1 / 8, 1 / 8, 1 / 6)
    close(values(params), [x - s * g for x, s, g in zip(before, sizes, slopes, strict=True)])


@every
def test_a_zero_gradient_changes_nothing(name):
    params, _ = parameters(0.0)
    before = values(params)
    MAKE[name](params).step()
    close(values(params), before)


def test_without_beta_every_step_has_the_length_lr_and_zero_stays_zero():
    for scale, length in ((1e-8, 0.25), (1e8, 0.25), (0.0, 0.0)):
        params, _ = parameters(scale)
        before = values(params)
        NormalizedGD(params, lr=0.25, beta=0.0).step()
        moved = np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(values(params), before, strict=True)))
        assert moved == pytest.approx(length, abs=1e-12)


@every
def test_a_parameter_without_a_gradient_is_left_alone_and_not_counted(name):
    params, slopes = parameters(5.0)
    before = values(params)
    params[0].grad = None
    MAKE[name](params).step()
    size = step_size(name, float(np.sqrt(sum((g**2).sum() for g in slopes[1:]))))
    close(values(params), [before[0], *(x - size * g for x, g in zip(before[1:], slopes[1:], strict=True))])


@every
def test_no_gradients_at_all_are_no_error(name):
    params, _ = parameters()
    before = values(params)
    optimizer = MAKE[name](params)
    optimizer.zero_grad()
    optimizer.step()
    close(values(params), before)


@pytest.mark.parametrize("name", ["normalized", "clipped"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_not_hidden(name, wrong):
    params, _ = parameters()
    params[1].grad[2] = wrong
    MAKE[name](params).step()
    assert torch.isnan(params[1]).any()


@every
def test_the_parameters_keep_their_dtype(name):
    p = torch.ones(3, dtype=torch.float32, requires_grad=True)
    p.grad = torch.full_like(p, 2.0)
    MAKE[name]([p]).step()
    assert p.dtype == torch.float32
    np.testing.assert_allclose(p.detach(), 1 - 2 * step_size(name, 2 * 3**0.5), rtol=1e-6)


@every
def test_a_closure_is_evaluated_with_gradients(name):
    p = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    optimizer = MAKE[name]([p])

    def closure():
        optimizer.zero_grad()
        loss = p @ p / 2
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 12.5
    close([p.detach().numpy()], [(1 - step_size(name, 5.0)) * np.array([3.0, 4.0])])


@every
def test_a_saved_state_goes_on_as_if_nothing_had_happened(name):
    params, _ = parameters(5.0)
    optimizer = MAKE[name](params, 0.11)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other, _ = parameters(5.0)
    resumed = MAKE[name](other, 0.9)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    resumed.step()
    optimizer.step()
    close(values(other), values(params))
    assert resumed.param_groups[0]["lr"] == 0.11


@every
def test_a_copy_can_be_made(name):
    params, _ = parameters()
    assert copy.deepcopy(MAKE[name](params)).param_groups[0]["lr"] == 0.3


@every
def test_a_scheduler_changes_the_step(name):
    params, slopes = parameters(5.0)
    before = values(params)
    optimizer = MAKE[name](params)
    scheduler = ExponentialLR(optimizer, gamma=0.5)
    total = 0.0
    for lr in (0.3, 0.15, 0.075):
        if isinstance(optimizer, SmoothnessAdaptiveGD):
            optimizer.observe(NORMS)
        optimizer.step()
        scheduler.step()
        total += step_size(name, 5.0, lr)
    close(values(params), [x - total * g for x, g in zip(before, slopes, strict=True)])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every
def test_the_same_on_a_gpu(name):
    here, slopes = parameters(5.0)
    there = [p.detach().cuda().requires_grad_() for p in here]
    for p, g in zip(there, slopes, strict=True):
        p.grad = torch.from_numpy(g).cuda()
    MAKE[name](here).step()
    MAKE[name](there).step()
    close([p.detach().cpu().numpy() for p in there], values(here))


P = [torch.zeros(2, requires_grad=True)]
WRONG = {
    "lr": (
        lambda: NormalizedGD(P, lr=0.0, beta=1.0),
        "lr: expected a positive number, got 0.0. Give lr such a value, e.g. lr=0.1.",
    ),
    "beta": (
        lambda: NormalizedGD(P, lr=1.0, beta=-1.0),
        "beta: expected a number of at least 0, got -1.0. Give beta such a value, e.g. beta=1.0.",
    ),
    "lr of clipped": (
        lambda: ClippedGD(P, lr=float("nan"), clip=1.0),
        "lr: expected a positive number, got nan. Give lr such a value, e.g. lr=0.1.",
    ),
    "clip": (
        lambda: ClippedGD(P, lr=1.0, clip=0.0),
        "clip: expected a positive number, got 0.0. Give clip such a value, e.g. clip=1.0.",
    ),
    "clip of a group": (
        lambda: ClippedGD([{"params": P, "clip": float("inf")}], lr=1.0, clip=1.0),
        "clip: expected a positive number, got inf. Give clip such a value, e.g. clip=1.0.",
    ),
    "lr of adaptive": (
        lambda: SmoothnessAdaptiveGD(P, -1, **CONSTANTS),
        "lr: expected a positive number, got -1. Give lr such a value, e.g. lr=1/12.",
    ),
    "smoothness": (
        lambda: SmoothnessAdaptiveGD(P, 1, **CONSTANTS | {"smoothness": 0.0}),
        "smoothness: expected a positive number, got 0.0. Give smoothness such a value, e.g. smoothness=1.0.",
    ),
    "hessian_lipschitz": (
        lambda: SmoothnessAdaptiveGD(P, 1, **CONSTANTS | {"hessian_lipschitz": -1.0}),
        (
            "hessian_lipschitz: expected a number of at least 0, got -1.0. "
            "Give hessian_lipschitz such a value, e.g. hessian_lipschitz=1.0."
        ),
    ),
    "inner_lr": (
        lambda: SmoothnessAdaptiveGD(P, 1, **CONSTANTS | {"inner_lr": 0.0}),
        "inner_lr: expected a positive number, got 0.0. Give inner_lr such a value, e.g. inner_lr=0.01.",
    ),
}


@pytest.mark.parametrize(("make", "text"), WRONG.values(), ids=WRONG)
def test_errors_say_what_to_do(make, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        make()


def test_clipped_and_normalized_are_the_same_up_to_a_factor_of_two():
    for scale in (0.01, 0.5, 1.0, 2.0, 100.0):
        moved = []
        for make in (lambda p: ClippedGD(p, 0.3, clip=2.0), lambda p: NormalizedGD(p, 0.6, beta=2.0)):
            params, _ = parameters(scale)
            before = values(params)
            make(params).step()
            moved.append(np.linalg.norm(values(params)[0] - before[0]))
        assert 1 - 1e-12 <= moved[0] / moved[1] <= 2 + 1e-12
