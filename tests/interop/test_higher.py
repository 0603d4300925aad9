"""The interface of higher, side by side with the installed library."""

from __future__ import annotations

import copy
import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

import metafunc as mf
import metafunc.interop.higher as ours
from tests.test_imperative import Probe, tensors

with warnings.catch_warnings():
    warnings.simplefilter("ignore", SyntaxWarning)
    theirs = pytest.importorskip("higher")

optim: Any = torch.optim
STEPS = 3
EXACT = [None, mf.Explicit(), mf.Truncated(STEPS), mf.Binomial(STEPS)]
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "SGD, momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.2),
    "SGD, nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.02),
    "Adam": lambda p: optim.Adam(p, lr=0.01, weight_decay=0.02),
    "Adam, amsgrad": lambda p: optim.Adam(p, lr=0.01, amsgrad=True),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.01),
    "RMSprop, centred": lambda p: optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.05, lr_decay=0.1),
    "Adadelta": lambda p: optim.Adadelta(p, lr=1.0),
    "Adamax": lambda p: optim.Adamax(p, lr=0.01),
    "ASGD": lambda p: optim.ASGD(p, lr=0.1),
    "Rprop": lambda p: optim.Rprop(p, lr=0.01),
}


@pytest.fixture(autouse=True)
def without_warnings() -> Iterator[None]:
    """Those of higher about its RMSprop and Rprop."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Differentiable R")
        yield


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def conv(track: bool, train: bool) -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3, track_running_stats=track),
        nn.Softplus(),
        nn.Flatten(),
        nn.Linear(3 * 16, 3),
    )
    with torch.no_grad():
        if track:
            net(torch.randn(8, 1, 6, 6))
    return net.train(train)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP": (mlp, (4,)),
    "conv, batch statistics": (lambda: conv(False, True), (1, 6, 6)),
    "conv, running statistics updated": (lambda: conv(True, True), (1, 6, 6)),
    "conv, running statistics used": (lambda: conv(True, False), (1, 6, 6)),
}


def batch(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(9, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.to(torch.get_default_dtype()), torch.arange(9) % 3


def grads(params: Any) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in params])


def run(
    library: Any,
    net: nn.Module,
    opt: Any,
    shape: tuple[int, ...],
    anchor: float = 0.0,
    steps: int = STEPS,
    **options: Any,
) -> tuple[Tensor, Tensor, Any]:
    """The outer loss, the meta-gradient, and the stateless module after a loop."""
    net.zero_grad()
    options = {"copy_initial_weights": False} | options
    with library.innerloop_ctx(net, opt, **options) as (fmodel, diffopt):
        x, y = batch(shape, 1)
        for _ in range(steps):
            pull = sum(
                ((p - q) ** 2).sum()
                for p, q in zip(fmodel.parameters(), fmodel.parameters(time=0), strict=True)
            )
            returned = diffopt.step(F.cross_entropy(fmodel(x), y) + 0.5 * anchor * pull)
        assert all(p is q for p, q in zip(returned, fmodel.fast_params, strict=True))
        x, y = batch(shape, 2)
        outer = F.cross_entropy(fmodel(x), y)
        outer.backward()
    return outer.detach(), grads(net.parameters()), fmodel


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert expected.norm() > 0
    assert (found - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_gives_the_results_of_higher(name: str, dtype: Any, tolerance: float) -> None:
    torch.set_default_dtype(dtype)
    net = mlp()
    opt = OPTIMIZERS[name](net.parameters())
    value, expected, _ = run(theirs, net, opt, (4,))
    for estimator in EXACT:
        found, gradient, _ = run(ours, net, opt, (4,), estimator=estimator)
        assert (found - value).abs() <= tolerance * value.abs()
        close(gradient, expected, tolerance)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("estimator", EXACT, ids=repr)
def test_every_model_gives_the_results_of_higher(name: str, estimator: Any) -> None:
    make, shape = MODELS[name]
    net = make()
    opt = OPTIMIZERS["SGD, momentum"](net.parameters())
    before = copy.deepcopy(dict(net.named_buffers()))
    value, expected, other = run(theirs, net, opt, shape)
    found, gradient, fmodel = run(ours, net, opt, shape, estimator=estimator)
    close(found, value, 1e-12)
    close(gradient, expected, 1e-12)
    for (key, x), (_, y) in zip(fmodel.named_buffers(), other.named_buffers(), strict=True):
        close(x.double(), y.double(), 1e-12)
        assert torch.equal(dict(net.named_buffers())[key], before[key])


FUNCTIONAL = [
    mf.FirstOrder(),
    *(mf.Truncated(depth) for depth in range(STEPS + 1)),
    *(mf.Binomial(order, window) for window in (2, 3) for order in range(window + 1)),
]


def functional(net: nn.Module, estimator: Any, **options: Any) -> Tensor:
    theta = {name: p.detach().requires_grad_() for name, p in net.named_parameters()}

    def loss(params: Any, data: Any) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(net, params, (data[0],)), data[1])

    inner = mf.gradient_descent(loss, **options)
    outer = loss(estimator(inner)(theta, batch((4,), 1)), batch((4,), 2))
    return torch.cat([g.flatten() for g in torch.autograd.grad(outer, list(theta.values()))])


@pytest.mark.parametrize("estimator", FUNCTIONAL, ids=repr)
def test_every_estimator_equals_the_functional_one(estimator: Any) -> None:
    net = mlp()
    opt = optim.SGD(net.parameters(), lr=0.3, momentum=0.6)
    _, found, _ = run(ours, net, opt, (4,), anchor=0.2, estimator=estimator)
    close(found, functional(net, estimator, lr=0.3, momentum=0.6, prox=0.2, steps=STEPS), 1e-12)


def test_implicit_equals_the_functional_one_at_the_solution() -> None:
    net = mlp()
    opt = optim.SGD(net.parameters(), lr=0.4)
    _, found, _ = run(ours, net, opt, (4,), anchor=0.5, steps=300, estimator=mf.Implicit(mf.Direct()))
    expected = functional(net, mf.Implicit(mf.Direct()), lr=0.4, prox=0.5, steps=300)
    close(found, expected, 1e-8)


@pytest.mark.parametrize("estimator", EXACT, ids=repr)
def test_learned_settings_of_groups_get_the_gradients_of_higher(estimator: Any) -> None:
    net: Any = mlp()
    groups = [{"params": net[2].parameters()}, {"params": net[0].parameters(), "lr": 0.3}]
    opt = optim.SGD(groups, lr=0.1, momentum=0.5)
    rates = [torch.tensor(0.2, requires_grad=True), torch.tensor(0.1, requires_grad=True)]
    momentum = torch.tensor(0.4, requires_grad=True)
    results: list[Tensor] = []
    for library, extra in ((theirs, {}), (ours, {"estimator": estimator})):
        for x in (*rates, momentum):
            x.grad = None
        _, gradient, _ = run(library, net, opt, (4,), override={"lr": rates, "momentum": [momentum]}, **extra)
        results.append(torch.cat([gradient, grads([*rates, momentum])]))
    close(results[1], results[0], 1e-12)


@pytest.mark.parametrize("estimator", EXACT, ids=repr)
def test_an_optimizer_with_a_history_and_a_callback(estimator: Any) -> None:
    net = mlp()
    opt = optim.Adam(net.parameters(), lr=0.01)
    F.cross_entropy(net(batch((4,), 1)[0]), batch((4,), 1)[1]).backward()
    opt.step()
    results: list[Tensor] = []
    for library, extra in ((theirs, {}), (ours, {"estimator": estimator})):
        net.zero_grad()
        with library.innerloop_ctx(net, opt, copy_initial_weights=False, **extra) as (fmodel, diffopt):
            x, y = batch((4,), 1)
            for k in range(STEPS):
                halved = {"grad_callback": lambda gs: [0.5 * g for g in gs]} if k == 1 else {}
                diffopt.step(F.cross_entropy(fmodel(x), y), override={"lr": [0.02 * (k + 1)]}, **halved)
            F.cross_entropy(fmodel(x), y).backward()
        results.append(grads(net.parameters()))
    close(results[1], results[0], 1e-12)


@pytest.mark.parametrize("estimator", EXACT, ids=repr)
def test_copies_of_the_initial_weights_get_the_gradient(estimator: Any) -> None:
    net = mlp()
    opt = optim.SGD(net.parameters(), lr=0.3)
    results: list[Tensor] = []
    for library, extra in ((theirs, {}), (ours, {"estimator": estimator})):
        _, none, fmodel = run(library, net, opt, (4,), copy_initial_weights=True, anchor=0.1, **extra)
        assert none.norm() == 0
        assert all(p.is_leaf for p in fmodel.parameters(time=0))
        assert all(p is q for p, q in zip(fmodel.init_fast_params, fmodel.parameters(time=0), strict=True))
        results.append(grads(fmodel.parameters(time=0)))
    close(results[1], results[0], 1e-12)


@pytest.mark.parametrize("estimator", [mf.Truncated(STEPS), mf.FirstOrder()], ids=repr)
def test_a_gradient_with_respect_to_the_first_fast_parameters(estimator: Any) -> None:
    net = mlp()
    opt = optim.SGD(net.parameters(), lr=0.3)
    x, y = batch((4,), 1)
    with ours.innerloop_ctx(net, opt, copy_initial_weights=False, estimator=estimator) as (fmodel, diffopt):
        for _ in range(STEPS):
            pairs = zip(fmodel.parameters(), fmodel.parameters(time=0), strict=True)
            diffopt.step(F.cross_entropy(fmodel(x), y) + sum(((p - q) ** 2).sum() for p, q in pairs))
        outer = F.cross_entropy(fmodel(x), y)
        at_first = torch.autograd.grad(outer, list(fmodel.parameters(time=0)), retain_graph=True)
        at_net = torch.autograd.grad(outer, list(net.parameters()))
    for p, q in zip(at_first, at_net, strict=True):
        close(p, q, 1e-14)


@pytest.mark.parametrize("estimator", [None, mf.Implicit()], ids=repr)
def test_evaluation_differentiates_nothing(estimator: Any) -> None:
    net = mlp()
    opt = optim.SGD(net.parameters(), lr=0.3)
    x, y = batch((4,), 1)
    params: list[list[Tensor]] = []
    for library, extra in ((theirs, {}), (ours, {"estimator": estimator})):
        with library.innerloop_ctx(net, opt, track_higher_grads=False, **extra) as (fmodel, diffopt):
            for _ in range(STEPS):
                diffopt.step(F.cross_entropy(fmodel(x), y))
            assert all(p.is_leaf for p in fmodel.parameters())
            params.append(list(fmodel.parameters()))
    assert all(torch.equal(p, q) for p, q in zip(*params, strict=True))


@pytest.mark.parametrize("estimator", [mf.FirstOrder(), mf.Truncated(2), mf.Implicit()], ids=repr)
def test_parameters_by_hand_are_those_of_the_last_step(estimator: Any) -> None:
    net = mlp()
    opt = optim.SGD(net.parameters(), lr=0.3)
    x, y = batch((4,), 1)
    with ours.innerloop_ctx(net, opt, copy_initial_weights=False, estimator=estimator) as (fmodel, diffopt):
        assert isinstance(diffopt, theirs.optim.DifferentiableSGD)
        params = list(fmodel.parameters())
        for _ in range(2):
            params = diffopt.step(F.cross_entropy(fmodel(x, params=params), y), params=params)
        assert all(p is q for p, q in zip(params, fmodel.parameters(time=2), strict=True))
        other = [p.detach().requires_grad_() for p in params]
        with pytest.raises(ValueError, match="params: expected the fast parameters after the last step"):
            fmodel(x, params=other)
        with pytest.raises(ValueError, match="params: expected the fast parameters after the last step"):
            diffopt.step(F.cross_entropy(fmodel(x), y), params=other)
        with pytest.raises(ValueError, match=r"time: expected 0 .* 2 .* got 1"):
            fmodel.parameters(time=1)


class Watched(nn.Module):
    """A layer whose part in every graph can be counted."""

    def forward(self, x: Tensor) -> Tensor:
        return Probe.apply(x)


LIMITS = {mf.FirstOrder(): 0, mf.Truncated(2): 2, mf.Binomial(1, window=2): 2, mf.Implicit(): 1}


@pytest.mark.parametrize(("estimator", "limit"), LIMITS.items(), ids=repr)
def test_memory_does_not_grow_with_the_steps(estimator: Any, limit: int) -> None:
    gc.collect()
    Probe.alive.clear()
    net = nn.Sequential(nn.Linear(4, 3), Watched(), nn.Tanh(), nn.Linear(3, 3))
    opt = optim.Adam(net.parameters(), lr=0.001)
    x, y = batch((4,), 1)
    alive: list[int] = []
    with ours.innerloop_ctx(net, opt, copy_initial_weights=False, estimator=estimator) as (fmodel, diffopt):
        for k in range(60):
            diffopt.step(F.cross_entropy(fmodel(x), y))
            if k in (20, 59):
                alive.append(tensors())
    assert len(Probe.alive) == limit
    assert alive[0] == alive[1]
    del fmodel, diffopt
    gc.collect()
    assert len(Probe.alive) == 0


def test_a_registered_optimizer_is_followed() -> None:
    class Mine(optim.SGD):
        pass

    ours.register_optim(Mine, ours.optim.DifferentiableSGD)
    net = mlp()
    _, found, _ = run(ours, net, Mine(net.parameters(), lr=0.1), (4,), estimator=mf.Truncated(STEPS))
    _, expected, _ = run(theirs, net, optim.SGD(net.parameters(), lr=0.1), (4,))
    close(found, expected, 1e-12)


def test_all_public_names_are_there() -> None:
    for module in ("", "optim", "patch", "utils"):
        here, there = (getattr(m, module) if module else m for m in (ours, theirs))
        for name in (n for n in dir(there) if not n.startswith("_")):
            assert name in dir(here)
            if module or name not in ("innerloop_ctx", "optim", "patch", "utils"):
                assert getattr(here, name) is getattr(there, name)
    assert ours.make_functional is theirs.patch.make_functional
    with pytest.raises(AttributeError, match="nothing"):
        _ = ours.nothing


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "higher", None)
    net = mlp()
    with pytest.raises(ImportError, match=r"metafunc\[higher\]"):
        _ = ours.monkeypatch
    with (
        pytest.raises(ImportError, match=r"metafunc\[higher\]"),
        ours.innerloop_ctx(net, optim.SGD(net.parameters(), lr=0.1)),
    ):
        pass


def test_other_estimators_are_refused() -> None:
    net = mlp()
    with (
        pytest.raises(TypeError, match="Choose one of these"),
        ours.innerloop_ctx(net, optim.SGD(net.parameters(), lr=0.1), estimator=mf.Reptile()),
    ):
        pass
