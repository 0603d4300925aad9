"""Tensors that a loop depends on beside its parameters: a right gradient, or a refusal, and never ``None``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import metafunc as mf
import metafunc.interop.higher as higher
from tests.interop.loops import LIBRARIES, opened
from tests.tasks import close

pytest.importorskip("higher")
pytest.importorskip("torchopt")

STEPS = 3
NOTHING = [mf.Truncated(0), mf.Binomial(0)]
WHOLE = [mf.Explicit(), mf.Truncated(STEPS), mf.Binomial(STEPS)]
IMPLICIT = mf.Implicit(mf.Direct())
Loss = Callable[[Callable[[Tensor], Tensor]], Tensor]


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))


def batch(seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, torch.sin(x.sum(-1, keepdim=True))


def weights(x: Tensor) -> Loss:
    return lambda model: (torch.exp(x) * (model(batch(1)[0]) - batch(1)[1]) ** 2).mean()


def scale(x: Tensor) -> Loss:
    return lambda model: x * F.mse_loss(model(batch(1)[0]), batch(1)[1])


def inputs(x: Tensor) -> Loss:
    return lambda model: F.mse_loss(model(x), batch(1)[1])


def critic(x: Tensor) -> Loss:
    return lambda model: (torch.tanh(model(batch(1)[0]) - batch(1)[1]) @ x).square().mean()


def penalty(x: Tensor) -> Loss:
    def loss(model: Any) -> Tensor:
        return F.mse_loss(model(batch(1)[0]), batch(1)[1]) + x * sum((p**2).sum() for p in model.parameters())

    return loss


# In the loss: examples' weights, a factor, the data, a learned loss, a weight decay
IN_THE_LOSS: dict[str, tuple[Callable[[Tensor], Loss], Tensor]] = {
    "weights": (weights, torch.zeros(7, 1)),
    "scale": (scale, torch.tensor(1.3)),
    "inputs": (inputs, batch(1)[0]),
    "critic": (critic, torch.tensor([[0.4]])),
    "penalty": (penalty, torch.tensor(0.2)),
}


def leaf(x: Tensor) -> Tensor:
    return x.detach().to(torch.float64, copy=True).requires_grad_()


def outer(model: Any) -> Tensor:
    return F.mse_loss(model(batch(2)[0]), batch(2)[1])


def meta_gradient(library: str, net: nn.Module, estimator: Any, x: Tensor, loss: Loss, rate: Any) -> Tensor:
    with opened(library, net, estimator, rate) as (model, step):
        for _ in range(STEPS):
            step(loss(model))
        outer(model).backward()
    assert x.grad is not None
    return x.grad


def by_hand(net: nn.Module, x: Tensor, loss: Loss, rate: Any, constant_gradients: bool = False) -> Tensor:
    """The same by ``functional_call`` and plain autograd."""

    class Model:
        def __init__(self, params: dict[str, Tensor]) -> None:
            self.params = params

        def __call__(self, data: Tensor) -> Tensor:
            return functional_call(net, self.params, (data,))

        def parameters(self) -> list[Tensor]:
            return list(self.params.values())

    params = {name: leaf(p) for name, p in net.named_parameters()}
    for _ in range(STEPS):
        slopes = torch.autograd.grad(
            loss(Model(params)), list(params.values()), create_graph=not constant_gradients
        )
        params = {name: p - rate * g for (name, p), g in zip(params.items(), slopes, strict=True)}
    (found,) = torch.autograd.grad(outer(Model(params)), [x])
    return found


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", IN_THE_LOSS)
@pytest.mark.parametrize("estimator", WHOLE, ids=repr)
def test_estimators_of_the_whole_path_give_the_exact_gradient(
    estimator: Any, name: str, library: str
) -> None:
    make, value = IN_THE_LOSS[name]
    x = leaf(value)
    expected = by_hand(mlp(), x, make(x), 0.1)
    assert expected.norm() > 1e-6
    close(meta_gradient(library, mlp(), estimator, x, make(x), 0.1), expected, 1e-10)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", IN_THE_LOSS)
@pytest.mark.parametrize("estimator", [mf.FirstOrder(), *NOTHING], ids=repr)
def test_estimators_without_the_gradients_derivative_refuse(estimator: Any, name: str, library: str) -> None:
    make, value = IN_THE_LOSS[name]
    x = leaf(value)
    with pytest.raises(mf.ZeroGradientError, match="in an imperative loop: expected a gradient asked for of"):
        meta_gradient(library, mlp(), estimator, x, make(x), 0.1)
    assert not x._backward_hooks


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("estimator", [*WHOLE, mf.FirstOrder()], ids=repr)
def test_a_learned_rate(estimator: Any, library: str) -> None:
    rate = leaf(torch.tensor(0.2))
    first = isinstance(estimator, mf.FirstOrder)
    expected = by_hand(mlp(), rate, scale(torch.tensor(1.0)), rate, constant_gradients=first)
    close(meta_gradient(library, mlp(), estimator, rate, scale(torch.tensor(1.0)), rate), expected, 1e-10)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("estimator", [*NOTHING, IMPLICIT], ids=repr)
def test_a_learned_rate_that_an_estimator_does_not_know_is_refused(estimator: Any, library: str) -> None:
    rate, net = leaf(torch.tensor(0.2)), mlp()
    start = [p.detach().clone() for p in net.parameters()]

    def proximal(model: Any) -> Tensor:
        pairs = zip(model.parameters(), start, strict=True)
        pull = sum(((p - q) ** 2).sum() for p, q in pairs)
        return F.mse_loss(model(batch(1)[0]), batch(1)[1]) + weight * pull

    weight = leaf(torch.tensor(0.5))
    with pytest.raises(mf.ZeroGradientError, match="rate"):
        meta_gradient(library, net, estimator, rate, proximal, rate)


@pytest.mark.parametrize("estimator", [mf.FirstOrder(), *NOTHING, IMPLICIT], ids=repr)
def test_momentum_and_rates_of_groups(estimator: Any) -> None:
    rates, momentum = [leaf(torch.tensor(r)) for r in (0.1, 0.3)], leaf(torch.tensor(0.6))

    def run() -> list[Tensor]:
        net: Any = mlp()
        groups = [{"params": net[0].parameters()}, {"params": net[2].parameters()}]
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.5)
        override = {"lr": rates, "momentum": [momentum]}
        settings: Any = {"copy_initial_weights": False, "override": override, "estimator": estimator}
        start = [p.detach() for p in net.parameters()]
        with higher.innerloop_ctx(net, optimizer, **settings) as (model, diffopt):
            for _ in range(STEPS):
                pull = sum(((p - q) ** 2).sum() for p, q in zip(model.parameters(), start, strict=True))
                diffopt.step(F.mse_loss(model(batch(1)[0]), batch(1)[1]) + knob * pull)
            outer(model).backward()
        return [x.grad for x in (*rates, momentum) if x.grad is not None]

    knob = leaf(torch.tensor(0.1))
    if not isinstance(estimator, mf.FirstOrder):
        with pytest.raises(mf.ZeroGradientError, match="such as a learned rate"):
            run()
        return
    with pytest.raises(mf.ZeroGradientError):  # the weight of the proximal term has no direct gradient
        run()
    for x in (*rates, momentum, knob):
        x.grad = None
    knob = torch.tensor(0.1)
    found = run()

    net: Any = mlp()
    params, buffers = {n: p.detach() for n, p in net.named_parameters()}, dict[str, Tensor]()
    start = dict(params)
    for _ in range(STEPS):
        at = {n: leaf(p) for n, p in params.items()}
        value = F.mse_loss(functional_call(net, at, (batch(1)[0],)), batch(1)[1])
        value = value + knob * sum(((at[n] - start[n]) ** 2).sum() for n in at)
        for (n, p), g in zip(params.items(), torch.autograd.grad(value, list(at.values())), strict=True):
            buffers[n] = momentum * buffers[n] + g if n in buffers else g
            params[n] = p - rates[0 if n[0] == "0" else 1] * buffers[n]
    query = F.mse_loss(functional_call(net, params, (batch(2)[0],)), batch(2)[1])
    close(torch.stack(found), torch.stack(torch.autograd.grad(query, [*rates, momentum])), 1e-10)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("estimator", [mf.FirstOrder(), *NOTHING], ids=repr)
def test_a_shared_part_with_a_direct_gradient_is_let_pass(estimator: Any, library: str) -> None:
    torch.manual_seed(1)
    body, head = nn.Linear(2, 2), mlp()
    with opened(library, head, estimator) as (model, step):
        for _ in range(STEPS):
            step(F.mse_loss(model(body(batch(1)[0])), batch(1)[1]))
        F.mse_loss(model(body(batch(2)[0])), batch(2)[1]).backward()

    params = {n: leaf(p) for n, p in mlp().named_parameters()}
    now = params
    for _ in range(STEPS):
        value = F.mse_loss(functional_call(head, now, (body(batch(1)[0]).detach(),)), batch(1)[1])
        slopes = torch.autograd.grad(value, list(now.values()))
        now = {n: p - 0.1 * g for (n, p), g in zip(now.items(), slopes, strict=True)}
    query = F.mse_loss(functional_call(head, now, (body(batch(2)[0]),)), batch(2)[1])
    expected = torch.autograd.grad(query, [*body.parameters(), *params.values()])
    for p, g in zip([*body.parameters(), *head.parameters()], expected, strict=True):
        close(p.grad, g, 1e-10)


@pytest.mark.parametrize("estimator", [mf.FirstOrder(), mf.Truncated(1), IMPLICIT], ids=repr)
def test_only_gradients_that_are_asked_for_are_missed(estimator: Any) -> None:
    net, used = mlp(), [leaf(torch.tensor(1.0)) for _ in range(STEPS)]
    weight = leaf(torch.tensor(0.3))

    def run(fn: Callable[[Tensor], Any]) -> Any:
        with opened("learn2learn", net, estimator) as (model, step):
            for x in used:
                pull = sum(
                    ((p - q) ** 2).sum() for p, q in zip(model.parameters(), net.parameters(), strict=True)
                )
                step(x * F.mse_loss(model(batch(1)[0]), batch(1)[1]) + weight.detach() * pull)
            return fn(outer(model))

    params = list(net.parameters())
    expected = run(lambda value: torch.autograd.grad(value, params))
    run(lambda value: value.backward(inputs=params))
    for p, g in zip(params, expected, strict=True):
        close(p.grad, g, 1e-12)
    with pytest.raises(mf.ZeroGradientError, match=r"backward\(inputs=\.\.\.\)"):
        run(lambda value: value.backward())
    with pytest.raises(mf.ZeroGradientError):  # where torch would give None
        run(lambda value: torch.autograd.grad(value, [used[0]], allow_unused=True))
    run(lambda value: (value + sum(used)).backward())  # it has a gradient from elsewhere
    assert all(x.grad is not None and not x._backward_hooks for x in used)


@pytest.mark.parametrize("estimator", [mf.FirstOrder(), mf.Truncated(2)], ids=repr)
def test_what_only_adds_to_the_loss_has_no_gradient_to_miss(estimator: Any) -> None:
    constant = leaf(torch.tensor(1.0))
    with opened("higher", mlp(), estimator) as (model, step):
        for _ in range(STEPS):
            step(F.mse_loss(model(batch(1)[0]), batch(1)[1]) + constant**2)
        outer(model).backward()
    assert constant.grad is None


@pytest.mark.parametrize("estimator", [mf.FirstOrder(), mf.Truncated(STEPS)], ids=repr)
def test_a_proximal_term_to_the_initial_parameters_is_no_reason_to_refuse(estimator: Any) -> None:
    net = mlp()
    with opened("learn2learn", net, estimator) as (model, step):
        for _ in range(STEPS):
            pairs = zip(model.parameters(), net.parameters(), strict=True)
            step(F.mse_loss(model(batch(1)[0]), batch(1)[1]) + sum(((p - q) ** 2).sum() for p, q in pairs))
        outer(model).backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in net.parameters())
