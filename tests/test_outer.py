"""What an outer loop is built from, steps that are refused, states, and copies."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import metafunc as mf
from metafunc import bayes
from tests.tasks import close

LR = torch.optim.lr_scheduler


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def batch(seed: int = 0) -> Any:
    draw = torch.Generator().manual_seed(seed)
    return tuple(
        (torch.randn(4, 6, 3, generator=draw), torch.randn(4, 6, 2, generator=draw)) for _ in range(2)
    )


def inner(problem: dict[str, Any]) -> mf.Inner:
    return mf.gradient_descent(**problem, lr=0.1, steps=2)


def size(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.square().mean()


def meta_for(module: nn.Module | None = None, **options: Any) -> mf.MetaOptimizer:
    module = net() if module is None else module
    optimizer = options.pop("optimizer", None) or torch.optim.Adam(module.parameters(), lr=0.05)
    given = {"loss_fn": F.mse_loss, "inner": inner, **options}
    return mf.MetaOptimizer(module, optimizer=optimizer, **given)


def bayesian(**options: Any) -> bayes.BayesianLearner:
    prior = bayes.Prior(net(), 0.1)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
    given = {"inner": inner, "kl_weight": 0.1, "samples": 2, **options}
    return bayes.BayesianLearner(prior, F.mse_loss, optimizer, **given)


LOOPS: dict[str, Callable[..., Any]] = {"meta-optimizer": meta_for, "bayesian": bayesian}


def everything(loop: Any) -> Any:
    """All that a step may change, to the bit."""
    state = {name: loop.state_dict()[name] for name in ("module", "optimizer", "scheduler", "steps")}
    return mf.tree.map(lambda x: x.tolist() if isinstance(x, Tensor) else x, state)


@pytest.mark.parametrize("build", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("where", ["support", "query", "targets"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_task_that_is_not_finite_changes_nothing(build: Any, where: str, value: float) -> None:
    loop, plain = build(clip=1.0), build(clip=1.0)
    loop.scheduler, plain.scheduler = LR.StepLR(loop.optimizer, 1), LR.StepLR(plain.optimizer, 1)
    for one in (loop, plain):
        one.step(batch(1))
    before = everything(loop)
    bad = copy.deepcopy(batch(2))
    bad[where == "query"][where == "targets"][2, 0] = value
    with pytest.raises(
        mf.NotFiniteError, match=r"data that are not finite in task 2 of 0 to 3. Leave such tasks out"
    ):
        loop.step(bad)
    assert everything(loop) == before
    for one in (loop, plain):
        one.step(batch(3))
    assert everything(loop) == everything(plain), "the steps after it are those of a loop that never met it"


def test_a_loss_that_is_not_finite_names_its_tasks() -> None:
    meta = meta_for(loss_fn=lambda out, y: F.mse_loss(out, y) / (y.mean() - 7).abs().clamp(max=1).sign())
    bad = copy.deepcopy(batch())
    bad[1][1][1] = 7.0
    with pytest.raises(
        FloatingPointError, match=r"an outer loss that is not finite in task 1 of 0 to 3. Lower the inner lr"
    ):
        meta.step(bad)


def test_a_derivative_that_is_not_finite() -> None:
    meta = meta_for(loss_fn=lambda out, y: ((out - out.detach()).abs() ** 1.5).sum() + F.mse_loss(out, y))
    with pytest.raises(
        mf.NotFiniteError,
        match="finite losses with a derivative that is not finite, as that of a square root",
    ):
        meta.step(batch())


def test_backward_leaves_the_check_to_the_loop_around_it() -> None:
    """An AMP scaler wants to see infinite gradients, and to skip the step itself."""
    meta = meta_for()
    found = meta.backward(batch(), weight=float("inf"))
    assert found.loss.isfinite()
    assert not all(p.grad.isfinite().all() for p in meta.model.module.parameters())


def test_gradients_outside_the_optimizer_are_those_of_one_step() -> None:
    module = net()
    meta = meta_for(module, optimizer=torch.optim.SGD(module[2].parameters(), lr=0.1))
    meta.step(batch(0))
    alone = meta_for(copy.deepcopy(module))
    meta.step(batch(1))
    alone.backward(batch(1))
    close(module[0].weight.grad, alone.model.module[0].weight.grad, 1e-12)


class Plain(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inside = module

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    if not torch.distributed.is_available():
        pytest.skip("torch without distributed")
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


RECIPE = r"\(.module\), and after meta.backward\(tasks\) call torch.distributed.all_reduce\(p.grad\)"


def sharded(module: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    fully_shard(module, mesh=mesh)
    return module


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        (nn.parallel.DistributedDataParallel, "DistributedDataParallel"),
        (lambda m: Plain(nn.parallel.DistributedDataParallel(m)), "DistributedDataParallel at 'inside'"),
        (type("Mine", (nn.parallel.DistributedDataParallel,), {}), "DistributedDataParallel"),
        (nn.DataParallel, "DataParallel"),
        (sharded, "FSDPModule"),
    ],
    ids=["ddp", "inside", "subclass", "dp", "fsdp"],
)
def test_wrapped_modules_are_refused_with_the_way_to_do_it(wrap: Any, kind: str) -> None:
    wrapped = wrap(net())
    with pytest.raises(TypeError, match=f"module: expected the module itself, .* got a {kind}.*{RECIPE}"):
        meta_for(wrapped)
    with pytest.raises(TypeError, match=f"got a {kind}"):
        mf.functional(wrapped, F.mse_loss)


def test_an_old_style_sharded_module_is_known_by_its_name() -> None:
    """It cannot be built without an accelerator."""
    kind = type("FullyShardedDataParallel", (Plain,), {})
    with pytest.raises(TypeError, match="got a FullyShardedDataParallel"):
        meta_for(kind(net()))


def test_the_way_to_do_it_is_that_of_one_process_with_all_tasks() -> None:
    """Each of two processes has half of the tasks; what all_reduce does, a sum does here."""
    whole, halves = meta_for(), [meta_for(), meta_for()]
    whole.step(batch())
    for i, half in enumerate(halves):
        half.backward(tuple(tuple(x[2 * i : 2 * i + 2] for x in part) for part in batch()))
    for p, q in zip(*(half.model.module.parameters() for half in halves), strict=True):
        p.grad = q.grad = (p.grad + q.grad) / 2
    for half in halves:
        half.optimizer.step()
        for p, q in zip(half.model.module.parameters(), whole.model.module.parameters(), strict=True):
            close(p.detach(), q.detach(), 1e-10)


def schedule(kind: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    def build() -> Any:
        module = net()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        return meta_for(module, optimizer=optimizer, scheduler=kind(optimizer, *args))

    return build


class Wrapped:
    """A scheduler of somebody's own that waits for a figure."""

    def __init__(self, optimizer: Any) -> None: ...

    def step(self, score: float) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "plateau": (schedule(LR.ReduceLROnPlateau), TypeError, r"scheduler: expected one that is stepped .*, got ReduceLROnPlateau, which waits for one. Leave scheduler= out, and call the ReduceLROnPlateau's step\(score\)"),
    "one's own": (schedule(Wrapped), TypeError, "got Wrapped, which waits for one"),
    "a class": (schedule(lambda _: LR.StepLR), TypeError, "scheduler: expected a torch.optim.lr_scheduler of the optimizer, or None, got the class StepLR"),
    "a number": (schedule(lambda _: 0.1), TypeError, "scheduler: expected a torch.optim.lr_scheduler"),
    "of another": (schedule(lambda _: LR.StepLR(torch.optim.SGD(net().parameters(), lr=0.1), 1)), ValueError, "scheduler: expected a scheduler of the optimizer that is given, got a StepLR of another"),
    "metrics": (lambda: meta_for(metrics=size), TypeError, r"metrics: expected functions metric\(outputs, targets\) -> scalar by name, got size. Write metrics=\{'name': size\}"),
    "a list of metrics": (lambda: meta_for(metrics=[size]), TypeError, "metrics: expected functions"),
    "a metric that is none": (lambda: meta_for(metrics={"size": 3}), TypeError, r"metrics\['size'\]: expected a function"),
    "a name that is taken": (lambda: meta_for(metrics={"loss": size}), ValueError, "metrics: expected other names than loss, .* got 'loss'"),
    "an inner problem": (lambda: meta_for(inner=mf.gradient_descent(lambda p, b: p.sum(), lr=0.1, steps=2)), TypeError, r"inner: expected a function from a problem .*Write inner=lambda p: mf.gradient_descent\(\*\*p"),
    "a wrapped one": (lambda: meta_for(inner=lambda p: mf.Explicit()(inner(p))), TypeError, r"inner: .* got one that returns Explicit\(\)\(gradient_descent\(steps=2\)\)"),
    "nothing": (lambda: meta_for(inner=lambda p: None), TypeError, "inner: .* got one that returns None"),
    "of the test": (lambda: meta_for(test_inner=3), TypeError, "test_inner: expected a function from a problem"),
    "an estimator's class": (lambda: meta_for(estimator=mf.Explicit), TypeError, "estimator: expected an estimator such as .*, got the class Explicit"),
    "clip": (lambda: meta_for(clip="1"), TypeError, "clip: expected None or a positive number, got str '1'"),
    "seed": (lambda: meta_for(seed=0.5), TypeError, "seed: expected an integer of at least 0, got float 0.5"),
    "module": (lambda: mf.MetaOptimizer(3, F.mse_loss, None, inner), TypeError, "module: expected an nn.Module, got int 3"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_it_cannot_be_built_from(what: str) -> None:
    build, kind, text = WRONG[what]
    with pytest.raises(kind, match=text):
        build()


@pytest.mark.parametrize("what", ["metrics", "inner", "estimator", "tasks", "scheduler"])
def test_a_bayesian_learner_says_the_same(what: str) -> None:
    wrong: Any = {"inner": 3, "metrics": size, "estimator": mf.Explicit, "tasks": 3, "scheduler": 3}[what]
    with pytest.raises(TypeError, match=f"{what}: expected"):
        bayesian(**{what: wrong})


def test_a_chain_of_schedulers() -> None:
    module = net()
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    parts = [LR.ExponentialLR(optimizer, 0.5), LR.ExponentialLR(optimizer, 0.5)]
    meta = meta_for(module, optimizer=optimizer, scheduler=LR.ChainedScheduler(parts))
    meta.step(batch())
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.25)


def test_a_parameter_that_is_frozen_later() -> None:
    module = net()
    meta = meta_for(module, adapt="2")
    meta.step(batch())
    module[2].bias.requires_grad_(False)
    for method in (meta.step, meta.backward, meta.evaluate):
        with pytest.raises(ValueError, match=r"adapt: .*got 2.bias, frozen after they were chosen.*adapt="):
            method(batch())
    with pytest.raises(ValueError, match=r"2.bias"):
        meta.adapt(tuple(x[0] for x in batch()[0]))
    module[2].bias.requires_grad_()
    module[0].bias.requires_grad_(False)  # which is not adapted, and stays as it is
    before = module[0].bias.clone()
    meta.step(batch())
    assert torch.equal(module[0].bias, before)


STATES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "nothing": (lambda s: {}, r"what state_dict\(\) returned, .*got entries \[\]"),
    "a module's": (lambda s: s["module"], "got entries"),
    "a list": (lambda s: [1], "got list"),
    "odd steps": (lambda s: {**s, "steps": "3"}, "what state_dict"),
    "an odd random state": (lambda s: {**s, "random": torch.zeros(3)}, "what state_dict"),
    "an odd module": (lambda s: {**s, "module": {"0.weight": 3}}, "what state_dict"),
    "another module": (lambda s: {**s, "module": {}}, r"a module with 0.weight \[4, 3\], .*one with 0.weight missing"),
    "another clip": (lambda s: {**s, "made": {**s["made"], "clip": 3.0}}, "with clip=None, got that of one with clip=3.0"),
}  # fmt: skip


@pytest.mark.parametrize("build", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("what", STATES)
def test_states_of_something_else_change_nothing(build: Any, what: str) -> None:
    change, text = STATES[what]
    other, loop = build(), build()
    other.step(batch())
    before = everything(loop)
    if "0.weight" in text and build is bayesian:
        text = "a module with "
    with pytest.raises(ValueError, match=f"state: expected .*{text}"):
        loop.load_state_dict(change(other.state_dict()))
    assert everything(loop) == before


@pytest.mark.parametrize("build", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_a_copy_does_what_the_original_does(build: Any, way: str) -> None:
    """To the bit, momenta and keys of steps included, and without the original."""
    loop = build(metrics={"size": size}, clip=0.5, tasks=mf.Vmap(chunk=3))
    loop.step(batch(0))
    before = everything(loop)
    other = pickle.loads(pickle.dumps(loop)) if way == "pickle" else copy.deepcopy(loop)
    found = other.step(batch(1))
    assert everything(loop) == before
    wanted = loop.step(batch(1))
    assert torch.equal(found.loss, wanted.loss) and torch.equal(found.grad_norm, wanted.grad_norm)
    assert everything(other) == everything(loop)


def test_a_copy_with_a_scheduler_and_dropout() -> None:
    module = nn.Sequential(nn.Dropout(0.5), net())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    meta = meta_for(
        module,
        optimizer=optimizer,
        scheduler=LR.StepLR(optimizer, 2),
        randomness="different",
        seed=3,
        tasks=mf.Loop(),
    )
    meta.step(batch())
    other = pickle.loads(pickle.dumps(meta))
    for k in range(3):
        assert torch.equal(meta.step(batch(k)).loss, other.step(batch(k)).loss)
    assert everything(meta) == everything(other)


class TiedHead(nn.Module):
    """A language model whose head has the weight of its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.middle, self.head = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5)
        self.head.weight = self.words.weight

    def forward(self, i: Tensor) -> Tensor:
        return self.head(torch.tanh(self.middle(self.words(i))))


@pytest.mark.parametrize(
    ("by_name", "part", "names"),
    [
        ("head", lambda m: m.head, ("words.weight", "head.bias")),
        ("words", lambda m: m.words, ("words.weight",)),
        ("head.weight", lambda m: m.words, ("words.weight",)),
        ("middle", lambda m: m.middle, ("middle.weight", "middle.bias")),
    ],
)
def test_tied_weights_have_all_their_names(by_name: str, part: Any, names: tuple[str, ...]) -> None:
    module = TiedHead()
    for adapt in (by_name, part(module), [by_name, part(module)]):
        assert mf.functional(module, F.cross_entropy, adapt=adapt).adapted == names


def test_a_frozen_tied_weight_is_not_adapted() -> None:
    module = TiedHead()
    module.words.weight.requires_grad_(False)
    for adapt in ("head", module.head):
        assert mf.functional(module, F.cross_entropy, adapt=adapt).adapted == ("head.bias",)
    with pytest.raises(ValueError, match="adapt: expected parameters or submodules"):
        mf.functional(module, F.cross_entropy, adapt="words")
