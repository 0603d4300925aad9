"""A loop, its module and its graph are gone when their names are: by counting references, without the collector."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import metafunc as mf
from tests.interop.loops import LIBRARIES, opened
from tests.test_imperative import Probe

pytest.importorskip("higher")
pytest.importorskip("torchopt")

ESTIMATORS = [
    mf.Explicit(),
    mf.FirstOrder(),
    mf.Truncated(2),
    mf.Truncated(0),
    mf.Binomial(2),
    mf.Implicit(mf.CG(3)),
]


class Watched(nn.Module):
    """A layer of which every graph has a part that can be counted."""

    def forward(self, x: Tensor) -> Tensor:
        return Probe.apply(x)


@pytest.fixture
def uncollected() -> Iterator[None]:
    Probe.alive.clear()
    gc.disable()
    yield
    gc.enable()


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), Watched(), nn.Tanh(), nn.Linear(3, 1))


def task(library: str, module: nn.Module, estimator: Any, ends: str) -> weakref.ref[Any]:
    """One task; what is left of its fast model."""
    x = torch.ones(4, 2)
    anchor = [p.detach() for p in module.parameters()]
    with opened(library, module, estimator, torch.tensor(0.1, requires_grad=ends == "rate")) as (model, step):
        fast: Any = model
        held = weakref.ref(fast if library == "higher" else getattr(fast, "module", fast))
        for _ in range(3):
            pull = sum(((p - q) ** 2).sum() for p, q in zip(fast.parameters(), anchor, strict=True))
            step(F.mse_loss(model(x), x[:, :1]) + weight * pull)
        value = F.mse_loss(model(x), x[:, :1])
        if ends == "error":
            step(torch.ones(()))
        elif ends != "forward":
            torch.autograd.grad(value, [weight, *module.parameters()], allow_unused=True)
    return held


weight = torch.tensor(0.5, requires_grad=True)


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("ends", ["forward", "backward", "error", "rate"])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_task_leaves_nothing(library: str, estimator: Any, ends: str) -> None:
    module, held = net(), None
    refused = contextlib.nullcontext() if ends == "forward" else contextlib.suppress(ValueError, RuntimeError)
    with refused:  # by the estimator, or by autograd as a loss of nothing
        held = task(library, module, estimator, ends)
    assert not Probe.alive, "a graph is left"
    if held is not None and library != "torchopt":  # TorchOpt's steps work on the module itself
        assert held() is None, "a module is left"
    assert all(p.is_leaf and not p._backward_hooks for p in (weight, *module.parameters()))
