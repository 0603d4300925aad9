"""Models whose graph is not plain: checkpoints, hooks on saved tensors, functions of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import metafunc as mf
from tests.interop.loops import LIBRARIES, opened
from tests.tasks import close

pytest.importorskip("higher")
pytest.importorskip("torchopt")

STEPS, RATE = 3, 0.3
WHOLE = [mf.Explicit(), mf.Truncated(STEPS), mf.Binomial(STEPS)]


class Net(nn.Module):
    """Three layers; ``wrap`` calls each of them."""

    def __init__(self, wrap: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))
        self.wrap = wrap

    def forward(self, x: Tensor, plain: bool = False) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x) if plain else self.wrap(layer, x))
        return x


def batch(seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x[0], x[1]


def found(library: str, net: nn.Module, estimator: Any, around: Any = nullcontext) -> Tensor:
    params = list(net.parameters())
    with opened(library, net, estimator, RATE) as (model, step), around():
        for _ in range(STEPS):
            step(F.mse_loss(model(batch(1)[0]), batch(1)[1]))
        F.mse_loss(model(batch(2)[0]), batch(2)[1]).backward()
    return torch.cat([p.grad.flatten() for p in params if p.grad is not None])


def by_hand(net: nn.Module, first_order: bool = False) -> Tensor:
    def loss(params: dict[str, Tensor], seed: int) -> Tensor:
        x, y = batch(seed)
        return F.mse_loss(functional_call(net, params, (x,), {"plain": True}), y)

    start = now = {n: p.detach().requires_grad_() for n, p in net.named_parameters()}
    for _ in range(STEPS):
        slopes = torch.autograd.grad(loss(now, 1), list(now.values()), create_graph=not first_order)
        now = {n: p - RATE * g for (n, p), g in zip(now.items(), slopes, strict=True)}
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss(now, 2), list(start.values()))])


def kept(layer: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(layer, x, use_reentrant=False)


def reentrant(layer: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(layer, x if x.requires_grad else x.requires_grad_(), use_reentrant=True)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("around", [nullcontext, save_on_cpu], ids=lambda f: f.__name__)
@pytest.mark.parametrize("estimator", [*WHOLE, mf.Truncated(1), mf.Implicit()], ids=repr)
def test_a_checkpoint_is_refused_where_it_would_recompute_from_other_parameters(
    estimator: Any, around: Any, library: str
) -> None:
    with pytest.raises(NotImplementedError, match=r"torch\.utils\.checkpoint.* Use FirstOrder\(\)"):
        found(library, Net(kept), estimator, around)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("estimator", [mf.FirstOrder(), mf.Truncated(0)], ids=repr)
def test_a_checkpoint_is_right_where_steps_are_not_differentiated(estimator: Any, library: str) -> None:
    close(found(library, Net(kept), estimator), by_hand(Net(kept), first_order=True), 1e-11)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("estimator", [*WHOLE, mf.FirstOrder()], ids=repr)
def test_a_reentrant_checkpoint_is_refused(estimator: Any, library: str) -> None:
    # Without that its parameters would stay where they are, or torch would speak of .grad().
    with pytest.raises(NotImplementedError, match=r"if reentrant hides them from autograd\.grad"):
        found(library, Net(reentrant), estimator)


def through_bytes(x: Tensor) -> tuple[Any, torch.Size]:
    return x.detach().clone().reshape(-1), x.shape


def packed() -> AbstractContextManager[None]:
    hooks: Any = saved_tensors_hooks(through_bytes, lambda pair: pair[0].reshape(pair[1]))
    return hooks


def in_hooks(make: Any) -> Any:
    def wrap(layer: nn.Module, x: Tensor) -> Tensor:
        with make():
            return layer(x)

    return wrap


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("make", [save_on_cpu, packed], ids=lambda f: f.__name__)
@pytest.mark.parametrize("estimator", WHOLE, ids=repr)
def test_hooks_that_only_keep_tensors_elsewhere(estimator: Any, make: Any, library: str) -> None:
    expected = by_hand(Net(kept))
    close(found(library, Net(in_hooks(make)), estimator), expected, 1e-11)
    close(found(library, Net(lambda layer, x: layer(x)), estimator, around=make), expected, 1e-11)


class Affine(torch.autograd.Function):
    """A linear layer with its derivative by hand; it keeps on its node what autograd's own nodes keep by that name."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.variable, ctx.mark = torch.ones(1, requires_grad=True), "mine"
        return x @ weight.T + bias

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        (bar,), (x, weight) = cotangents, ctx.saved_tensors
        return bar @ weight, bar.T @ x, bar.sum(0)


class Once(Affine):
    """The same without a second derivative."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        return Affine.backward(ctx, *cotangents)


def by_function(function: Any) -> Any:
    return lambda layer, x: function.apply(x, layer.weight, layer.bias)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("estimator", [*WHOLE, mf.FirstOrder()], ids=repr)
def test_a_function_of_the_users_own(estimator: Any, library: str) -> None:
    first_order = isinstance(estimator, mf.FirstOrder)
    expected = by_hand(Net(kept), first_order)
    close(found(library, Net(by_function(Affine)), estimator), expected, 1e-11)
    if first_order:
        close(found(library, Net(by_function(Once)), estimator), expected, 1e-11)
    else:
        with pytest.raises(RuntimeError, match="once_differentiable"):
            found(library, Net(by_function(Once)), estimator)
