"""MAML and MetaSGD: learn2learn's semantics against loops written out, and every estimator against its function."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import metafunc as mf
from metafunc.interop.learn2learn import MAML, MetaSGD
from tests.interop.saved import Saved
from tests.tasks import close

LR, STEPS = 0.1, 3


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 2)
        self.b = nn.Linear(2, 2, bias=False)
        self.b.weight = self.a.weight
        self.head = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.b(torch.tanh(self.a(x)))))

    def features(self, x: Tensor) -> Tensor:
        return self.a(x)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(1, 2, batch_first=True)
        self.head = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x[..., None])[0][:, -1])


def conv() -> nn.Module:
    shape = nn.Unflatten(1, (1, 1, 2))
    norm = nn.BatchNorm2d(3)
    return nn.Sequential(
        shape, nn.Conv2d(1, 3, 1, bias=False), norm, nn.Tanh(), nn.Flatten(), nn.Linear(6, 1)
    )


NETS = {"mlp": mlp, "tied": Tied, "conv": conv, "recurrent": Recurrent}


def data() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    x = torch.randn(2, 8, 2)
    y = torch.sin(x.sum(-1, keepdim=True))
    return (x[0], y[0]), (x[1], y[1])


def adapted(maml: Any, support: Any, steps: int = STEPS, **options: Any) -> Any:
    learner = maml.clone(**options)
    for _ in range(steps):
        learner.adapt(F.mse_loss(learner(support[0]), support[1]))
    return learner


def gradient(maml: Any, support: Any, query: Any, **options: Any) -> list[Tensor]:
    learner = adapted(maml, support, **options)
    return list(torch.autograd.grad(F.mse_loss(learner(query[0]), query[1]), list(maml.parameters())))


def written(
    net: nn.Module, support: Any, query: Any, rates: Any = None, first_order: bool = False
) -> list[Tensor]:
    """The same by functional_call and autograd, step by step."""
    net = copy.deepcopy(net)
    start = dict(net.named_parameters())
    names = list(start)
    rates = [LR] * len(names) if rates is None else rates
    params = [start[name] for name in names]
    for _ in range(STEPS):
        value = F.mse_loss(
            functional_call(net, dict(zip(names, params, strict=True)), (support[0],)), support[1]
        )
        slopes = torch.autograd.grad(value, params, create_graph=not first_order)
        params = [p - r * g for p, r, g in zip(params, rates, slopes, strict=True)]
    value = F.mse_loss(functional_call(net, dict(zip(names, params, strict=True)), (query[0],)), query[1])
    learned = [r for r in rates if isinstance(r, Tensor)]
    return list(torch.autograd.grad(value, [*start.values(), *learned]))


def flat(tensors: Any) -> Tensor:
    return torch.cat([x.reshape(-1) for x in tensors])


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("kind", NETS)
def test_maml_is_the_loop_written_out(kind: str, first_order: bool) -> None:
    net, (support, query) = NETS[kind](), data()
    expected = written(net, support, query, first_order=first_order)
    assert flat(expected).norm() > 1e-2
    close(flat(gradient(MAML(net, LR, first_order), support, query)), flat(expected), 1e-11)
    other = MAML(net, LR, not first_order)
    close(flat(gradient(other, support, query, first_order=first_order)), flat(expected), 1e-11)


def test_maml_in_single_precision() -> None:
    net, (support, query) = mlp().float(), data()
    support, query = ([x.float() for x in pair] for pair in (support, query))
    expected = flat(written(net, support, query))
    close(flat(gradient(MAML(net, LR), support, query)), expected, 1e-6)


def test_exact_and_first_order_differ() -> None:
    net, (support, query) = mlp(), data()
    exact, biased = (flat(written(net, support, query, first_order=f)) for f in (False, True))
    assert (exact - biased).norm() > 1e-2 * exact.norm()


@pytest.mark.parametrize("kind", ["mlp", "tied", "conv"])
def test_meta_sgd_is_the_loop_written_out(kind: str) -> None:
    net, (support, query) = NETS[kind](), data()
    maml = MetaSGD(net, lr=LR)
    with torch.no_grad():
        for rate in maml.lrs:
            rate.mul_(torch.rand_like(rate) + 0.5)
    assert [r.shape for r in maml.lrs] == [p.shape for p in net.parameters()]
    expected = written(net, support, query, rates=[r.detach().clone().requires_grad_() for r in maml.lrs])
    found = gradient(maml, support, query)
    close(flat(found), flat(expected), 1e-11)
    assert all(g.norm() > 0 for g in found)


@pytest.mark.parametrize("options", [{"first_order": True}, {"estimator": mf.FirstOrder()}], ids=str)
def test_first_order_meta_sgd_still_learns_its_rates(options: dict[str, Any]) -> None:
    net, (support, query) = mlp(), data()
    maml = MetaSGD(net, lr=LR, **options)
    rates = [r.detach().clone().requires_grad_() for r in maml.lrs]
    params = list(net.parameters())
    names = [name for name, _ in net.named_parameters()]
    for _ in range(STEPS):
        value = F.mse_loss(
            functional_call(net, dict(zip(names, params, strict=True)), (support[0],)), support[1]
        )
        slopes = torch.autograd.grad(value, params, retain_graph=True)
        params = [p - r * g for p, r, g in zip(params, rates, slopes, strict=True)]
    value = F.mse_loss(functional_call(net, dict(zip(names, params, strict=True)), (query[0],)), query[1])
    expected = torch.autograd.grad(value, [*net.parameters(), *rates])
    close(flat(gradient(maml, support, query)), flat(expected), 1e-11)
    lr = torch.tensor(LR, requires_grad=True)
    learner = adapted(MAML(net, lr, **options), support)
    (slope,) = torch.autograd.grad(F.mse_loss(learner(query[0]), query[1]), [lr])
    close(slope, sum(g.sum() for g in expected[len(names) :]), 1e-11)


ESTIMATORS = [mf.Explicit(), mf.FirstOrder(), mf.Truncated(2), mf.Binomial(2)]


def functional_gradient(net: nn.Module, estimator: Any, support: Any, query: Any) -> Tensor:
    def loss(params: Any, batch: Any) -> Tensor:
        return F.mse_loss(functional_call(net, params, (batch[0],)), batch[1])

    theta = {name: p.detach() for name, p in net.named_parameters()}
    inner = mf.gradient_descent(loss, lr=LR, steps=STEPS)
    found = mf.meta_grad(loss, estimator(inner))(theta, support, query).grad
    return flat(found[name] for name in theta)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_every_estimator_is_the_functional_one(estimator: Any) -> None:
    net, (support, query) = mlp(), data()
    expected = functional_gradient(net, estimator, support, query)
    close(flat(gradient(MAML(net, LR, estimator=estimator), support, query)), expected, 1e-11)


def test_implicit_is_the_functional_one_at_the_solution() -> None:
    net, (support, query) = nn.Linear(2, 1), data()
    maml, prox = MAML(net, 0.3, estimator=mf.Implicit(mf.CG(max_steps=10))), 0.5
    learner = maml.clone()
    for _ in range(120):
        pairs = zip(learner.parameters(), net.parameters(), strict=True)
        pull = sum(((a - b) ** 2).sum() for a, b in pairs)
        learner.adapt(F.mse_loss(learner(support[0]), support[1]) + prox / 2 * pull)
    found = torch.autograd.grad(F.mse_loss(learner(query[0]), query[1]), list(net.parameters()))

    def loss(params: Any, batch: Any) -> Tensor:
        return F.mse_loss(functional_call(net, params, (batch[0],)), batch[1])

    theta = {name: p.detach() for name, p in net.named_parameters()}
    inner = mf.gradient_descent(loss, lr=0.3, steps=120, prox=prox)
    expected = mf.meta_grad(loss, mf.Implicit(mf.CG(max_steps=10))(inner))(theta, support, query).grad
    close(flat(found), flat(expected[name] for name in theta), 1e-9)


def test_backward_fills_the_gradients_of_the_module() -> None:
    net, (support, query) = mlp(), data()
    maml = MAML(net, LR)
    learner = adapted(maml, support)
    F.mse_loss(learner(query[0]), query[1]).backward()
    close(flat(p.grad for p in net.parameters()), flat(written(net, support, query)), 1e-11)
    assert [id(p) for p in maml.parameters()] == [id(p) for p in net.parameters()]


def test_a_clone_leaves_the_module_alone() -> None:
    net, (support, _) = conv(), data()
    before, parameters = copy.deepcopy(net.state_dict()), list(net.parameters())
    maml = MAML(net, LR)
    learner = adapted(maml, support)
    learner.eval()
    learner.module.register_forward_hook(lambda *_: None)
    assert net.training
    assert not net._forward_hooks
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
    moved = learner.module.state_dict()
    assert int(moved["2.num_batches_tracked"]) == STEPS
    assert not torch.equal(moved["2.running_mean"], before["2.running_mean"])
    assert not torch.equal(moved["1.weight"], before["1.weight"])


def test_a_learner_behaves_like_the_module() -> None:
    net, (support, _) = Tied(), data()
    learner = adapted(MAML(net, LR), support)
    assert isinstance(learner, MAML)
    assert learner.a.weight is learner.b.weight
    assert learner.head.bias is list(learner.parameters())[-1]
    assert not torch.equal(learner.features(support[0]), net.features(support[0]))
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = learner.nothing_of_that_name


def test_a_clone_of_a_clone_goes_on() -> None:
    net, (support, query) = mlp(), data()
    learner = adapted(MAML(net, LR), support, steps=1)
    before = flat(learner.parameters()).detach().clone()
    branch = adapted(learner, support, steps=2)
    found = torch.autograd.grad(F.mse_loss(branch(query[0]), query[1]), list(net.parameters()))
    close(flat(found), flat(written(net, support, query)), 1e-11)
    assert torch.equal(flat(learner.parameters()), before)


def test_frozen_parameters_stay() -> None:
    net, (support, query) = mlp(), data()
    net[0].requires_grad_(False)
    learner = adapted(MAML(net, LR, allow_nograd=True), support)
    assert torch.equal(learner.module[0].weight, net[0].weight)
    F.mse_loss(learner(query[0]), query[1]).backward()
    assert net[0].weight.grad is None
    assert net[2].weight.grad.norm() > 1e-3


def test_a_parameter_that_the_loss_leaves_out() -> None:
    net, (support, query) = mlp(), data()
    net.register_parameter("spare", nn.Parameter(torch.ones(2)))
    learner = adapted(MAML(net, LR, allow_unused=True), support)
    assert torch.equal(learner.module.spare, net.spare)
    F.mse_loss(learner(query[0]), query[1]).backward()
    assert net[0].weight.grad.norm() > 1e-3


def test_steps_of_biased_estimators_do_not_accumulate() -> None:
    net, (support, _) = mlp(), data()
    for estimator in (mf.FirstOrder(), mf.Truncated(2), mf.Implicit(mf.CG(3))):
        assert growth(MAML(net, 0.01, estimator=estimator), support, 40) == 0
    assert growth(MetaSGD(net, 0.01, estimator=mf.Truncated(2)), support, 40) == 0
    # A learned rate has a direct gradient through every move: the moves are kept, which are a few copies of a
    # parameter each, not the activations of a step.
    assert growth(MetaSGD(net, 0.01, estimator=mf.FirstOrder()), support, 20) <= 20 * 3 * len(
        list(net.parameters())
    )
    assert growth(MAML(net, 0.01, estimator=mf.Explicit()), support, 20) > 20


def growth(maml: Any, support: Any, steps: int) -> int:
    with Saved() as saved:
        learner = adapted(maml, support, steps=10)
        before = saved.alive()
        for _ in range(steps):
            learner.adapt(F.mse_loss(learner(support[0]), support[1]))
        return saved.alive() - before


# What is refused


def message(error: type[Exception], fn: Any) -> str:
    with pytest.raises(error) as caught:
        fn()
    return str(caught.value)


def test_refusals_at_construction() -> None:
    assert message(TypeError, lambda: MAML(torch.sin, LR)).startswith("model: expected an nn.Module, got ")
    text = message(TypeError, lambda: MAML(mlp(), LR, estimator="explicit"))
    assert text.startswith("estimator: expected an estimator such as mf.Explicit(), got str 'explicit'")
    assert "Reptile()" in message(TypeError, lambda: MAML(mlp(), LR, estimator=mf.Reptile()))
    text = message(ValueError, lambda: MAML(mlp(), LR, first_order=True, estimator=mf.Truncated(1)))
    assert "got first_order=True and estimator=Truncated(depth=1)" in text
    assert "lrs: expected one tensor for each of the 4 parameters" in message(
        ValueError, lambda: MetaSGD(mlp(), lrs=[torch.ones(1)])
    )
    for estimator in (mf.Implicit(), mf.Truncated(0), mf.Binomial(0)):
        text = message(mf.ZeroGradientError, lambda e=estimator: MetaSGD(mlp(), estimator=e).clone())
        assert "the rates" in text
        assert repr(estimator) in text


def test_refusals_of_frozen_parameters() -> None:
    net, (support, _) = mlp(), data()
    net[0].requires_grad_(False)
    learner = MAML(net, LR).clone()
    text = message(ValueError, lambda: adapted(MAML(net, LR), support))
    assert "got frozen ones: 0.weight, 0.bias" in text
    assert "allow_nograd=True" in text
    learner.adapt(F.mse_loss(learner(support[0]), support[1]), allow_nograd=True)
    assert torch.equal(learner.module[0].weight, net[0].weight)
    assert not torch.equal(learner.module[2].weight, net[2].weight)
    learner = MAML(net, LR, allow_nograd=True).clone()
    text = message(ValueError, lambda: learner.adapt(learner(support[0]).sum(), allow_nograd=False))
    assert "got frozen ones" in text
    net.requires_grad_(False)
    assert "at least one parameter that requires a gradient" in message(
        ValueError, MAML(net, LR, allow_nograd=True).clone
    )


def test_the_arguments_of_adapt_are_learn2learns() -> None:
    assert list(inspect.signature(MAML.adapt).parameters) == [
        "self",
        "loss",
        "first_order",
        "allow_unused",
        "allow_nograd",
    ]
    net, (support, query) = mlp(), data()
    learner = MAML(net, LR).clone()
    for _ in range(STEPS):
        learner.adapt(F.mse_loss(learner(support[0]), support[1]), False, True, True)
    found = torch.autograd.grad(F.mse_loss(learner(query[0]), query[1]), list(net.parameters()))
    close(flat(found), flat(written(net, support, query)), 1e-11)


@pytest.mark.parametrize("make", [MAML, MetaSGD])
def test_a_clone_has_the_modes_of_the_module_and_changes_none(make: Any) -> None:
    net: Any = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 1))
    maml = make(net, LR)
    for change in (net[1].eval, net.eval, maml.train, maml.eval, net[2].train):
        change()
        before = [part.training for part in net.modules()]
        learner = maml.clone()
        assert [part.training for part in net.modules()] == before
        assert [part.training for part in learner.module.modules()] == before
        assert learner.training == maml.training
    net.eval()
    support, _ = data()
    assert torch.equal(maml.clone()(support[0]), net(support[0]))


def test_refusals_at_adapt() -> None:
    net, (support, _) = mlp(), data()
    maml = MAML(net, LR)
    text = message(TypeError, lambda: maml.adapt(maml(support[0]).sum()))
    assert "expected a clone of the MAML, got the MAML itself" in text
    assert "learner = maml.clone()" in text
    learner = maml.clone()
    assert "does not depend on them" in message(ValueError, lambda: learner.adapt(torch.ones(())))
    assert "does not depend on them" in message(ValueError, lambda: learner.adapt(net(support[0]).sum()))
    assert "Give it to clone()" in message(
        ValueError, lambda: learner.adapt(learner(support[0]).sum(), first_order=True)
    )
    before = flat(learner.parameters())
    partial = learner.module[0](support[0]).sum()
    text = message(ValueError, lambda: learner.adapt(partial))
    assert "got no dependence on 2.weight, 2.bias" in text
    assert "allow_unused=True" in text
    assert torch.equal(flat(learner.parameters()), before)
    learner.adapt(learner.module[0](support[0]).sum(), allow_unused=True)
