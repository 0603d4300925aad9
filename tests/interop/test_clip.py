"""Clipping: TorchOpt's values, and the derivative that TorchOpt's lacks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, vmap

import metafunc as mf
from metafunc.interop.torchopt import clip_grad_norm
from tests.dense import logistic
from tests.tasks import close, logistic_loss, tensors

torchopt = pytest.importorskip("torchopt")


@pytest.mark.parametrize("norm_type", [2.0, math.inf])
@pytest.mark.parametrize("max_norm", [0.3, 100.0])
def test_the_values_are_those_of_torchopt(norm_type: float, max_norm: float) -> None:
    gradients = {"a": torch.randn(4), "b": torch.randn(2, 3)}
    ours, theirs = clip_grad_norm(max_norm, norm_type), torchopt.clip.clip_grad_norm(max_norm, norm_type)
    found, _ = ours.update(gradients, ours.init(gradients))
    expected, _ = theirs.update(gradients, theirs.init(gradients), inplace=False)
    for name in gradients:
        close(found[name], expected[name], 1e-12)


def test_the_norm_is_part_of_the_derivative() -> None:
    """One clipped step is ``phi - lr c g / (||g|| + e)``, differentiated by hand."""
    theta, support, _ = tensors(logistic())
    adapt = mf.Explicit()(
        mf.optimizer_loop(logistic_loss, torchopt.chain(clip_grad_norm(0.1), torchopt.sgd(0.5)), steps=1)
    )
    g, h = grad(logistic_loss)(theta, support), torch.func.jacrev(grad(logistic_loss))(theta, support)
    size = g.norm()
    assert size > 0.2
    factor = 0.1 / (size + 1e-6)
    of_clip = factor * (torch.eye(6) - torch.outer(g, g) / (size * (size + 1e-6)))
    expected = torch.eye(6) - 0.5 * of_clip @ h
    close(jacrev(adapt)(theta, support), expected, 1e-12)
    close(jacfwd(adapt)(theta, support), expected, 1e-12)


def test_it_clips_task_by_task_under_vmap_and_survives_a_zero() -> None:
    parts = [tensors(logistic(seed)) for seed in range(3)]
    theta = parts[0][0]
    x, y = (torch.stack(z) for z in zip(*(p[1] for p in parts), strict=True))
    x = x * torch.tensor([1.0, 0.0, 0.01])[:, None, None]
    adapt = mf.Explicit()(
        mf.optimizer_loop(logistic_loss, torchopt.chain(clip_grad_norm(0.1), torchopt.sgd(0.5)), steps=3)
    )
    together = vmap(jacrev(adapt), in_dims=(None, 0))(theta, (x, y))
    close(together[1], torch.eye(6), 1e-12)
    for i in range(3):
        close(together[i], jacrev(adapt)(theta, (x[i], y[i])), 1e-12)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((0.0,), "max_norm: expected a positive number, got 0.0"),
        ((1.0, 1.0), "norm_type: expected 2 or math.inf, got 1.0"),
    ],
)
def test_options_out_of_range(options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        clip_grad_norm(*options)


def test_missing_gradients_stay_missing() -> None:
    ours = clip_grad_norm(1.0)
    found, _ = ours.update([torch.ones(4), None], ())
    close(found[0], torch.full((4,), 0.5), 1e-5)
    assert found[1] is None
    assert isinstance(found[0], Tensor)
