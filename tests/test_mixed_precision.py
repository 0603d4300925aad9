"""Mixed precision: every estimator within bfloat16's rounding of single precision, and not in it by accident."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import metafunc as mf
from metafunc import tree

ESTIMATORS = [
    mf.Explicit(),
    mf.Explicit(checkpoint=True),
    mf.Binomial(1),
    mf.Truncated(1),
    mf.FirstOrder(),
    mf.Implicit(mf.CG(max_steps=3)),
]


def flat(slopes: Any) -> torch.Tensor:
    return torch.cat([x.flatten() for x in tree.leaves(slopes)])


def gradient(estimator: mf.Estimator, batching: Any, **options: Any) -> torch.Tensor:
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    net = mf.nets.conv4(3, channels=1, width=4, side=8, blocks=2)
    tasks = mf.data.Episodes(mf.data.glyphs().split("val"), 3, 2, 2).sample(
        2, torch.Generator().manual_seed(0)
    )
    tasks = {
        part: (F.avg_pool2d(x.flatten(0, 1), 4)[..., :7, :7].unflatten(0, x.shape[:2]), y)
        for part, (x, y) in tasks.items()
    }
    tasks = {part: (F.pad(x, (0, 1, 0, 1)), y) for part, (x, y) in tasks.items()}
    meta = mf.MetaOptimizer(
        net,
        F.cross_entropy,
        torch.optim.SGD(net.parameters(), lr=0.1),
        lambda problem: mf.gradient_descent(**problem, lr=0.1, steps=2, prox=1.0),
        estimator,
        tasks=batching,
        **options,
    )
    meta.backward(tasks)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())
    return flat({name: p.grad for name, p in net.named_parameters()})


@pytest.mark.parametrize("batching", [mf.Vmap(), mf.Loop()], ids=repr)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_every_estimator_in_mixed_precision(estimator: mf.Estimator, batching: Any) -> None:
    full = gradient(estimator, batching)
    mixed = gradient(estimator, batching, autocast=torch.bfloat16)
    error = (mixed - full).norm() / full.norm()
    assert 1e-4 < error < 0.15  # 8 bits of precision, over a few layers and two derivatives


def test_the_module_runs_in_the_lower_precision_and_gives_back_the_higher() -> None:
    torch.set_default_dtype(torch.float32)
    seen: list[torch.dtype] = []
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    net[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    model = mf.functional(net, F.mse_loss, autocast=torch.bfloat16)
    assert model.outputs(model.theta, torch.randn(5, 3)).dtype == torch.float32
    assert seen == [torch.bfloat16]


def test_other_precisions_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"autocast: expected torch.bfloat16, torch.float16 or None, got torch.int8"
    ):
        mf.functional(nn.Linear(2, 2), F.mse_loss, autocast=torch.int8)
