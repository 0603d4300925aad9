"""Adapted copies of modules that keep what they should not."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import metafunc as mf

X, Y = torch.randn(2, 5, 3, dtype=torch.float64), torch.randn(2, 5, 1, dtype=torch.float64)


class Keeping(nn.Module):
    """Keeps its activations: as they are, in a list, and in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.last: Any = None
        self.kept: Any = [{}]

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.layer(x)
        self.kept[0]["y"] = (self.last * 2, "doubled")
        return self.last


def meta_for(module: nn.Module, **options: Any) -> mf.MetaOptimizer:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    return mf.MetaOptimizer(
        module, F.mse_loss, optimizer, lambda p: mf.gradient_descent(**p, lr=0.1, steps=2), **options
    )


@pytest.mark.parametrize("batching", [mf.Vmap(), mf.Loop()], ids=repr)
@pytest.mark.parametrize("kind", [Keeping, lambda: nn.Sequential(Keeping(), nn.Tanh())])
def test_activations_that_are_kept(batching: Any, kind: Any) -> None:
    module = kind()
    meta = meta_for(module, tasks=batching)
    for run in (lambda: meta.step(((X, Y), (X, Y))), lambda: module(X[0])):
        run()
        adapted = meta.adapt((X[0], Y[0]))
        assert all(p.grad is None and not p.grad_fn for p in adapted.parameters())
        phi = {n: p.detach() for n, p in module.named_parameters()}
        for _ in range(2):
            phi = {n: p.requires_grad_() for n, p in phi.items()}
            made = torch.func.functional_call(module, phi, (X[0],))
            slopes = torch.autograd.grad(F.mse_loss(made, Y[0]), list(phi.values()))
            phi = {n: (p - 0.1 * g).detach() for (n, p), g in zip(phi.items(), slopes, strict=True)}
        assert torch.allclose(adapted(X[1]), torch.func.functional_call(module, phi, (X[1],)), atol=1e-12)


def test_a_weight_that_is_made_of_others() -> None:
    """The hook of ``weight_norm`` leaves a weight with a graph in the module."""
    with pytest.warns(FutureWarning):
        module = nn.utils.weight_norm(nn.Linear(3, 1))
    meta = meta_for(module, tasks=mf.Loop())
    meta.step(((X, Y), (X, Y)))
    adapted = meta.adapt((X[0], Y[0]))
    assert F.mse_loss(adapted(X[0]), Y[0]) < F.mse_loss(module(X[0]), Y[0])


@pytest.mark.parametrize("thing", [threading.Lock(), (x for x in "ab")], ids=["lock", "generator"])
def test_an_attribute_that_cannot_be_copied_is_named(thing: Any) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    module[1].thing = thing
    meta = meta_for(module)
    meta.step(((X, Y), (X, Y)))
    text = r"module: expected attributes that can be copied, got 1\.thing, a (lock|generator)"
    with pytest.raises(TypeError, match=text):
        meta.adapt((X[0], Y[0]))
