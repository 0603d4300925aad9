"""TorchOpt's imperative optimizers: beside TorchOpt's own, and for every estimator."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import metafunc as mf
import metafunc.interop.torchopt as ours
from tests.interop.saved import Saved
from tests.tasks import close

theirs = pytest.importorskip("torchopt")
STEPS = 3

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "MetaSGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    "MetaAdam": {"lr": 0.05},
    "MetaAdamW": {"lr": 0.05, "weight_decay": 0.1},
    "MetaRMSProp": {"lr": 0.02, "momentum": 0.5},
    "MetaAdaGrad": {"lr": 0.05},
    "MetaAdaDelta": {"lr": 1.0},
    "MetaAdaMax": {"lr": 0.05},
    "MetaRAdam": {"lr": 0.05},
}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1))


def conv() -> nn.Module:
    shape = nn.Unflatten(1, (1, 1, 2))
    norm = nn.BatchNorm2d(3)
    return nn.Sequential(
        shape, nn.Conv2d(1, 3, 1, bias=False), norm, nn.Tanh(), nn.Flatten(), nn.Linear(6, 1)
    )


def data() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    x = torch.randn(2, 8, 2)
    y = torch.sin(x.sum(-1, keepdim=True))
    return (x[0], y[0]), (x[1], y[1])


def loss_of(net: nn.Module, batch: Any) -> Tensor:
    return F.mse_loss(net(batch[0]), batch[1])


def flat(tensors: Any) -> Tensor:
    return torch.cat([x.reshape(-1) for x in tensors])


def gradient(make: Callable[[nn.Module], Any], net: nn.Module, support: Any, query: Any) -> Tensor:
    """After ``STEPS`` steps on a copy of the net."""
    net = copy.deepcopy(net)
    start = list(net.parameters())
    optimizer = make(net)
    for _ in range(STEPS):
        optimizer.step(loss_of(net, support))
    return flat(torch.autograd.grad(loss_of(net, query), start))


@pytest.mark.parametrize("net", [mlp, conv])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_beside_torchopt(name: str, net: Callable[[], nn.Module]) -> None:
    options, module, (support, query) = OPTIMIZERS[name], net(), data()
    expected = gradient(lambda m: getattr(theirs, name)(m, **options), module, support, query)
    assert expected.norm() > 1e-2
    close(gradient(lambda m: getattr(ours, name)(m, **options), module, support, query), expected, 1e-11)


@pytest.mark.parametrize("name", ["MetaSGD", "MetaAdam"])
def test_beside_torchopt_in_single_precision(name: str) -> None:
    options, module = OPTIMIZERS[name], mlp().float()
    support, query = ([x.float() for x in pair] for pair in data())
    expected = gradient(lambda m: getattr(theirs, name)(m, **options), module, support, query)
    found = gradient(lambda m: getattr(ours, name)(m, **options), module, support, query)
    assert found.dtype == torch.float32
    close(found, expected, 1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_signature_is_torchopts(name: str) -> None:
    def parameters(cls: type) -> dict[str, Any]:
        found = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
        return {p.name: (p.default, p.kind) for p in found.values()}

    expected = parameters(getattr(theirs, name))
    expected["estimator"] = (None, inspect.Parameter.KEYWORD_ONLY)
    assert parameters(getattr(ours, name)) == expected


def test_the_other_spellings() -> None:
    for name in ("MetaRMSprop", "MetaAdagrad", "MetaAdadelta", "MetaAdamax"):
        assert getattr(ours, name).__name__ == getattr(theirs, name).__name__


def test_schedules_and_chains() -> None:
    module, (support, query) = mlp(), data()
    impl = theirs.chain(
        theirs.transform.scale_by_adam(), theirs.transform.scale_by_schedule(lambda count: -0.1 / (1 + count))
    )
    expected = gradient(lambda m: theirs.MetaOptimizer(m, impl), module, support, query)
    close(gradient(lambda m: ours.MetaOptimizer(m, impl), module, support, query), expected, 1e-11)


BIASED = [
    mf.FirstOrder(),
    mf.Truncated(0),
    mf.Truncated(1),
    mf.Truncated(3),
    mf.Binomial(1),
    mf.Implicit(mf.CG(3)),
]
ESTIMATORS = [mf.Explicit(), mf.FirstOrder(), mf.Truncated(2), mf.Truncated(3)]


def functional_gradient(net: nn.Module, estimator: Any, make: Any, support: Any, query: Any) -> Tensor:
    def loss(params: Any, batch: Any) -> Tensor:
        return F.mse_loss(functional_call(net, params, (batch[0],)), batch[1])

    theta = {name: p.detach() for name, p in net.named_parameters()}
    found = mf.meta_grad(loss, estimator(make(loss)))(theta, support, query).grad
    return flat(found[name] for name in theta)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
@pytest.mark.parametrize("name", ["MetaSGD", "MetaAdam"])
def test_every_estimator_is_the_functional_one(name: str, estimator: Any) -> None:
    net, (support, query) = mlp(), data()
    impl = getattr(theirs, name.removeprefix("Meta").lower())(**OPTIMIZERS[name])
    expected = functional_gradient(
        net, estimator, lambda f: mf.optimizer_loop(f, impl, steps=STEPS), support, query
    )
    found = gradient(lambda m: ours.MetaOptimizer(m, impl, estimator=estimator), net, support, query)
    close(found, expected, 1e-11)


def test_binomial_is_the_functional_one() -> None:
    net, (support, query), estimator = mlp(), data(), mf.Binomial(2)
    expected = functional_gradient(
        net, estimator, lambda f: mf.gradient_descent(f, lr=0.1, steps=STEPS), support, query
    )
    found = gradient(lambda m: ours.MetaSGD(m, 0.1, estimator=estimator), net, support, query)
    close(found, expected, 1e-11)


def test_a_dead_unit_under_adam() -> None:
    net, (support, query) = mlp(), data()
    with torch.no_grad():
        net[2].weight[:, 0] = 0.0
        net[0].weight[0] = 0.0
        net[0].bias[0] = 0.0
    net[2].register_forward_pre_hook(lambda _, x: (x[0] * torch.tensor([0.0, 1, 1, 1, 1]),))
    assert gradient(lambda m: ours.MetaAdam(m, 0.05), net, support, query).isfinite().all()
    assert gradient(lambda m: theirs.MetaAdam(m, 0.05), net, support, query).isnan().any()


# What happens to the module


def test_the_module_carries_the_graph() -> None:
    net, (support, _) = mlp(), data()
    start = list(net.parameters())
    kept = [p.detach().clone() for p in start]
    ours.MetaSGD(net, 0.1).step(loss_of(net, support))
    assert all(p.grad_fn is not None for p in net.parameters())
    assert all(torch.equal(p, q) for p, q in zip(start, kept, strict=True))


def test_frozen_and_tied_parameters() -> None:
    net, (support, query) = (
        nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.Linear(2, 1)),
        data(),
    )
    net[2].weight = net[0].weight
    net[3].requires_grad_(False)
    start = dict(net.named_parameters())
    optimizer = ours.MetaSGD(net, 0.1)
    for _ in range(2):
        optimizer.step(loss_of(net, support))
    assert net[0].weight is net[2].weight
    assert net[3].weight is start["3.weight"]
    found = torch.autograd.grad(loss_of(net, query), [p for p in start.values() if p.requires_grad])

    trained = {name: p for name, p in start.items() if p.requires_grad}
    params = dict(trained)
    for _ in range(2):
        value = F.mse_loss(functional_call(net, params, (support[0],)), support[1])
        slopes = torch.autograd.grad(value, list(params.values()), create_graph=True)
        params = {name: p - 0.1 * g for (name, p), g in zip(params.items(), slopes, strict=True)}
    value = F.mse_loss(functional_call(net, params, (query[0],)), query[1])
    close(flat(found), flat(torch.autograd.grad(value, list(trained.values()))), 1e-11)


@pytest.mark.parametrize("name", ["MetaSGD", "MetaAdam"])
def test_a_parameter_that_the_loss_leaves_out(name: str) -> None:
    net, (support, query) = mlp(), data()
    net.register_parameter("spare", nn.Parameter(torch.ones(2)))

    def run(library: Any, **options: Any) -> Tensor:
        module = copy.deepcopy(net)
        start = [p for n, p in module.named_parameters() if n != "spare"]
        optimizer = getattr(library, name)(module, **OPTIMIZERS[name], **options)
        for _ in range(STEPS):
            optimizer.step(loss_of(module, support))
        moved = module.spare - net.spare
        return flat([*torch.autograd.grad(loss_of(module, query), start), moved.detach()])

    close(run(ours), run(theirs), 1e-11)
    close(run(ours, estimator=mf.Truncated(3)), run(theirs), 1e-11)


def test_two_groups_are_torchopts() -> None:
    (support, query), modules = data(), nn.ModuleList([mlp(), mlp()])

    def run(library: Any) -> Tensor:
        a, b = nets = copy.deepcopy(modules)
        start = list(nets.parameters())
        optimizer = library.MetaAdam(a, 0.05)
        optimizer.add_param_group(b)
        for _ in range(STEPS):
            optimizer.step(F.mse_loss(a(support[0]) * b(support[0]), support[1]))
        value = F.mse_loss(a(query[0]) * b(query[0]), query[1])
        return flat(torch.autograd.grad(value, start))

    close(run(ours), run(theirs), 1e-11)


# States


@pytest.mark.parametrize("by", ["reference", "copy", "deepcopy", "ref", "clone", "deepclone"])
def test_a_state_is_what_torchopt_extracts(by: str) -> None:
    net, (support, _) = conv(), data()
    ours.MetaSGD(net, 0.1).step(loss_of(net, support))
    found, expected = ours.extract_state_dict(net, by=by), theirs.extract_state_dict(net, by=by)
    assert len(found.params) == len(expected.params)
    assert len(found.buffers) == len(expected.buffers) == 1
    for a, b in zip([*found.params, *found.buffers], [*expected.params, *expected.buffers], strict=True):
        assert list(a) == list(b)
        for x, y in zip(a.values(), b.values(), strict=True):
            assert torch.equal(x, y)
            assert (x is y) == (by in ("reference", "ref"))
            assert type(x) is type(y)
            assert (x.grad_fn is None, x.requires_grad) == (y.grad_fn is None, y.requires_grad)


@pytest.mark.parametrize("by", ["reference", "copy", "deepcopy"])
def test_a_loop_over_tasks_recovers(by: str) -> None:
    net, (support, query) = conv(), data()

    def run(library: Any) -> Tensor:
        module = copy.deepcopy(net)
        optimizer = library.MetaAdam(module, 0.05)
        optimizer.step(loss_of(module, query))
        start = list(module.parameters())
        kept = [library.extract_state_dict(x, by=by) for x in (module, optimizer)]
        found = []
        for batch in (support, query):
            for _ in range(2):
                optimizer.step(loss_of(module, batch))
            wrt = start if by != "deepcopy" else [x for part in kept[0].params for x in part.values()]
            found += torch.autograd.grad(loss_of(module, query), wrt, retain_graph=True, allow_unused=True)
            for target, state in zip((module, optimizer), kept, strict=True):
                library.recover_state_dict(target, state)
        found += [x for part in module.modules() for x in part._buffers.values() if x is not None]
        return flat(x for x in found if x is not None)

    close(run(ours), run(theirs), 1e-11)


def test_buffers_come_back_only_when_they_were_kept() -> None:
    net, (support, _) = conv(), data()
    kept = ours.extract_state_dict(net, by="copy", detach_buffers=True)
    bare = ours.extract_state_dict(net, with_buffers=False)
    assert bare.buffers == ()
    net(support[0])
    ours.recover_state_dict(net, bare)
    assert int(net[2].num_batches_tracked) == 1
    ours.recover_state_dict(net, kept)
    assert int(net[2].num_batches_tracked) == 0
    assert net[2].running_mean is not kept.buffers[0]["running_mean"]


@pytest.mark.parametrize("by", ["copy", "deepcopy"])
def test_tied_parameters_stay_tied_in_a_copy(by: str) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    ours.recover_state_dict(net, ours.extract_state_dict(net, by=by))
    assert net[0].weight is net[1].weight


def test_a_drawing_gets_names() -> None:
    net = mlp()
    found = ours.extract_state_dict(net, enable_visual=True, visual_prefix="a.").visual_contents
    assert found == theirs.extract_state_dict(net, enable_visual=True, visual_prefix="a.").visual_contents


def test_a_recurrent_module_recovers() -> None:
    net, x = nn.LSTM(1, 2), torch.randn(3, 1, 1)
    before = net(x)[0]
    kept = ours.extract_state_dict(net)
    for look in (True, False):
        ours.MetaSGD(net, 1.0).step(net(x)[0].square().sum())
        assert not look or (net(x)[0] - before).norm() > 1e-3
        ours.recover_state_dict(net, kept)
        assert torch.equal(net(x)[0], before)


@pytest.mark.parametrize("estimator", [mf.Explicit(), mf.FirstOrder(), mf.Truncated(3)], ids=repr)
def test_stop_gradient_cuts_the_chain(estimator: Any) -> None:
    net, (support, query) = mlp(), data()
    start = list(net.parameters())
    optimizer = ours.MetaAdam(net, 0.05, estimator=estimator)
    optimizer.step(loss_of(net, support))
    ours.stop_gradient(net)
    ours.stop_gradient(optimizer)
    middle = list(net.parameters())
    assert all(p.is_leaf and p.requires_grad for p in middle)
    optimizer.step(loss_of(net, support))
    value = loss_of(net, query)
    assert flat(torch.autograd.grad(value, middle, retain_graph=True)).norm() > 1e-3
    assert torch.autograd.grad(value, start, allow_unused=True) == (None,) * len(start)


def test_stop_gradient_of_states_and_trees() -> None:
    net = mlp()
    ours.MetaSGD(net, 0.1).step(net(torch.randn(3, 2)).square().sum())
    state = ours.extract_state_dict(net)
    ours.stop_gradient(state)
    tree = {"x": [torch.ones(2, requires_grad=True) * 2, 3]}
    ours.stop_gradient(tree)
    assert all(x.is_leaf and x.requires_grad for x in (*net.parameters(), tree["x"][0]))


def growth(optimizer: Any, net: nn.Module, support: Any, steps: int) -> int:
    with Saved() as saved:
        for _ in range(10):
            optimizer.step(loss_of(net, support))
        before = saved.alive()
        for _ in range(steps):
            optimizer.step(loss_of(net, support))
        return saved.alive() - before


def test_steps_of_biased_estimators_do_not_accumulate() -> None:
    support, _ = data()
    for estimator in (mf.FirstOrder(), mf.Truncated(2), mf.Implicit(mf.CG(3))):
        net = mlp()
        assert growth(ours.MetaAdam(net, 0.01, estimator=estimator), net, support, 40) == 0
    net = mlp()
    assert growth(ours.MetaAdam(net, 0.01), net, support, 20) > 20


def test_a_second_task_begins_a_new_chain() -> None:
    net, (support, query), estimator = mlp(), data(), mf.Truncated(2)
    start = list(net.parameters())
    optimizer = ours.MetaAdam(net, 0.05, estimator=estimator)
    kept = [ours.extract_state_dict(x) for x in (net, optimizer)]
    found: list[Tensor] = []
    for _ in range(2):
        for _ in range(STEPS):
            optimizer.step(loss_of(net, support))
        found.append(flat(torch.autograd.grad(loss_of(net, query), start)))
        for target, state in zip((net, optimizer), kept, strict=True):
            ours.recover_state_dict(target, state)
    assert all(a is b for a, b in zip(net.parameters(), start, strict=True))
    close(found[1], found[0], 1e-14)


@pytest.mark.parametrize("estimator", [mf.FirstOrder(), mf.Truncated(2), mf.Truncated(3)], ids=repr)
def test_a_chain_from_tensors_with_a_history(estimator: Any) -> None:
    net, (support, query) = mlp(), data()

    def run(module: nn.Module, by: str) -> Tensor:
        start = list(module.parameters())
        optimizer = ours.MetaAdam(module, 0.05, estimator=estimator)
        ours.recover_state_dict(module, ours.extract_state_dict(module, by=by))
        for _ in range(STEPS):
            optimizer.step(loss_of(module, support))
        return flat(torch.autograd.grad(loss_of(module, query), start))

    close(run(copy.deepcopy(net), "copy"), run(copy.deepcopy(net), "reference"), 1e-14)


@pytest.mark.parametrize("estimator", [mf.Truncated(3), mf.Binomial(3)], ids=repr)
def test_a_chain_from_tensors_with_a_history_that_the_loss_depends_on_too(estimator: Any) -> None:
    net, (support, query) = mlp(), data()

    def run(library: Any, **options: Any) -> Tensor:
        module = copy.deepcopy(net)
        start = list(module.parameters())
        optimizer = library.MetaSGD(module, 0.2, **options)
        library.recover_state_dict(module, library.extract_state_dict(module, by="copy"))
        for _ in range(STEPS):
            pairs = zip(module.parameters(), start, strict=True)
            optimizer.step(
                loss_of(module, support) + sum((p * q).sum() + ((p - q) ** 2).sum() for p, q in pairs)
            )
        return flat(torch.autograd.grad(loss_of(module, query), start))

    close(run(ours, estimator=estimator), run(theirs), 1e-11)


@pytest.mark.parametrize("estimator", BIASED, ids=repr)
def test_backward_does_not_miss_moments_that_nobody_has(estimator: Any) -> None:
    net, (support, query) = mlp(), data()
    optimizer = ours.MetaAdam(net, 0.05, estimator=estimator)
    start = list(net.parameters())
    for _ in range(STEPS):
        pairs = zip(net.parameters(), start, strict=True)
        optimizer.step(loss_of(net, support) + sum(((p - q) ** 2).sum() for p, q in pairs))
    loss_of(net, query).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in start)


def test_initial_moments_that_are_learned() -> None:
    net, (support, query) = mlp(), data()

    def run(estimator: Any) -> Tensor:
        module = copy.deepcopy(net)
        optimizer = ours.MetaSGD(module, 0.2, momentum=0.9, estimator=estimator)
        state = theirs.pytree.tree_map(
            lambda x: torch.full_like(x, 0.3).requires_grad_(), tuple(optimizer.state_dict())
        )
        optimizer.load_state_dict(state)
        for _ in range(STEPS):
            optimizer.step(loss_of(module, support))
        learned = [x for x in theirs.pytree.tree_leaves(state) if isinstance(x, Tensor)]
        return flat(torch.autograd.grad(loss_of(module, query), learned))

    expected = run(mf.Explicit())  # plain autograd
    assert expected.norm() > 1e-3
    close(run(mf.Truncated(STEPS)), expected, 1e-11)
    assert (run(mf.FirstOrder()) - expected).norm() > 1e-3
    for estimator in (mf.Truncated(1), mf.Truncated(0)):
        with pytest.raises(mf.ZeroGradientError):
            run(estimator)


def test_all_public_names_are_there() -> None:
    own = {name for name in theirs.__all__ if "Meta" in name} | {
        "clip_grad_norm",
        "extract_state_dict",
        "recover_state_dict",
        "stop_gradient",
        "module_clone",
        "module_detach_",
    }
    for name in theirs.__all__:
        assert name in dir(ours)
        assert (getattr(ours, name) is getattr(theirs, name)) == (name not in own), name
    assert ours.linear_solve.solve_cg is theirs.linear_solve.solve_cg
    assert ours.diff is theirs.diff
    with pytest.raises(AttributeError, match="nothing"):
        _ = ours.nothing


def test_a_module_is_cloned_and_detached() -> None:
    net, (support, _) = conv(), data()
    optimizer = ours.MetaSGD(net, 0.1)
    optimizer.step(loss_of(net, support))
    copied = ours.module_clone(net, by="copy")
    assert torch.equal(copied(support[0]), net(support[0]))
    assert all(p.grad_fn is not None for p in copied.parameters())
    assert ours.module_detach_(net) is net
    assert all(p.is_leaf for p in net.parameters())
    with pytest.raises(TypeError, match=r"state_dict\(\)"):
        ours.module_clone(optimizer)


@pytest.mark.parametrize("estimator", [mf.Explicit(), mf.Truncated(3), mf.Implicit(mf.CG(10))], ids=repr)
def test_the_loss_may_depend_on_other_leaves(estimator: Any) -> None:
    net, (support, query) = nn.Linear(2, 1), data()
    weights = torch.full((8, 1), 0.5, requires_grad=True)

    def run(library: Any, **options: Any) -> Tensor:
        module = copy.deepcopy(net)
        optimizer = library.MetaSGD(module, 0.5, **options)
        for _ in range(3):
            optimizer.step(
                (weights * (module(support[0]) - support[1]) ** 2).mean() + 0.1 * weights.sum() ** 2
            )
        return flat(torch.autograd.grad(loss_of(module, query), [weights]))

    found = run(ours, estimator=estimator)
    assert found.norm() > 1e-3
    if not isinstance(estimator, mf.Implicit):
        close(found, run(theirs), 1e-11)


# What is refused


def message(error: type[Exception], fn: Callable[[], Any]) -> str:
    with pytest.raises(error) as caught:
        fn()
    return str(caught.value)


def test_refusals_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    net = mlp()
    assert "module: expected an nn.Module, got " in message(TypeError, lambda: ours.MetaSGD(torch.sin, 0.1))
    text = message(TypeError, lambda: ours.MetaSGD(net, 0.1, estimator="explicit"))
    assert "estimator: expected an estimator such as mf.Explicit(), got str 'explicit'" in text
    assert "impl: expected a functional optimizer" in message(TypeError, lambda: ours.MetaOptimizer(net, 0.1))
    assert "Reptile()" in message(TypeError, lambda: ours.MetaSGD(net, 0.1, estimator=mf.Reptile()))
    frozen = mlp().requires_grad_(False)
    assert "that requires a gradient" in message(ValueError, lambda: ours.MetaSGD(frozen, 0.1))
    monkeypatch.setitem(sys.modules, "torchopt", None)
    assert "pip install 'metafunc[torchopt]'" in message(ImportError, lambda: ours.MetaSGD(net, 0.1))
    assert "pip install 'metafunc[torchopt]'" in message(ImportError, lambda: ours.adam)


@pytest.mark.parametrize("estimator", [mf.Explicit(), mf.FirstOrder()], ids=repr)
def test_a_loss_of_other_parameters(estimator: Any) -> None:
    net = mlp()
    optimizer = ours.MetaSGD(net, 0.1, estimator=estimator)
    for loss in (torch.ones(()), torch.ones((), requires_grad=True) * 2):
        assert "does not depend on them" in message(ValueError, lambda x=loss: optimizer.step(x))
    assert all(p.is_leaf for p in net.parameters())


def test_states_that_do_not_fit() -> None:
    net = mlp()
    adam, sgd = ours.MetaAdam(net, 0.1), ours.MetaSGD(net, 0.1, momentum=0.9)
    text = message(ValueError, lambda: adam.load_state_dict(sgd.state_dict()))
    assert "(ScaleByAdamState, EmptyState)" in text
    assert "got (TraceState, EmptyState)" in text
    other = ours.MetaAdam(net, 0.1, estimator=mf.FirstOrder())
    text = message(
        ValueError, lambda: ours.recover_state_dict(adam, ours.extract_state_dict(other, by="copy"))
    )
    assert "with the estimator Explicit()" in text
    assert "got FirstOrder()" in text
    assert "state_dict" in message(ValueError, lambda: adam.load_state_dict(ours.extract_state_dict(net)))
    assert "built alike" in message(
        ValueError, lambda: ours.recover_state_dict(net, ours.extract_state_dict(conv()))
    )
    assert "from extract_state_dict" in message(
        TypeError, lambda: ours.recover_state_dict(net, adam.state_dict())
    )
    assert "'reference', 'copy' or 'deepcopy'" in message(
        ValueError, lambda: ours.extract_state_dict(net, by="x")
    )
    for fn in (ours.extract_state_dict, lambda x: ours.recover_state_dict(x, ())):
        assert "target: expected an nn.Module or a metafunc MetaOptimizer" in message(
            TypeError, lambda f=fn: f(3)
        )
