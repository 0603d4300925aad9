"""The meta-optimizer: a plain loop's results, resumption to the bit, flat memory, and what it refuses."""

from __future__ import annotations

import copy
import gc
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import metafunc as mf
from tests.tasks import close

TASKS, STEPS, LR = 4, 3, 0.3
EXPLICIT = mf.Explicit()


def net(norm: bool = True) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), *([nn.BatchNorm1d(6)] if norm else []), nn.Tanh(), nn.Linear(6, 3))


def tasks(seed: int = 0, count: int = TASKS) -> dict[str, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(2, count, 8, 4, generator=draw)
    y = torch.randint(3, (2, count, 8), generator=draw)
    return {"support": (x[0], y[0]), "query": (x[1], y[1])}


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(-1) == targets).to(outputs.dtype).mean()


def inner(problem: dict[str, Any]) -> mf.Inner:
    return mf.gradient_descent(**problem, lr=LR, steps=STEPS)


def proximal(problem: dict[str, Any]) -> mf.Inner:
    return mf.gradient_descent(**problem, lr=LR, steps=STEPS, prox=1.0)


def meta_for(module: nn.Module, estimator: Any = EXPLICIT, **options: Any) -> mf.MetaOptimizer:
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    solver = options.pop("inner", inner)
    return mf.MetaOptimizer(module, F.cross_entropy, optimizer, solver, estimator, **options)


def by_hand(module: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """The mean outer loss with its whole graph, as a plain loop makes it, and the mean accuracy."""
    losses, right = [], []
    for i in range(len(batch["support"][0])):
        params = dict(module.named_parameters())
        for _ in range(STEPS):
            loss = F.cross_entropy(
                functional_call(module, params, (batch["support"][0][i],)), batch["support"][1][i]
            )
            slopes = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            params = {n: p - LR * g for (n, p), g in zip(params.items(), slopes, strict=True)}
        outputs = functional_call(module, params, (batch["query"][0][i],))
        losses.append(F.cross_entropy(outputs, batch["query"][1][i]))
        right.append(accuracy(outputs, batch["query"][1][i]))
    return torch.stack(losses).mean(), torch.stack(right).mean()


@pytest.mark.parametrize("batching", [mf.Vmap(), mf.Vmap(chunk=3), mf.Loop()], ids=repr)
def test_steps_are_those_of_a_plain_loop(batching: Any) -> None:
    ours, theirs = net(), net()
    meta = meta_for(ours, tasks=batching, clip=0.5, metrics={"accuracy": accuracy})
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.05)
    for k in range(3):
        batch = tasks(k)
        found = meta.step(batch)
        loss, right = by_hand(theirs, batch)
        optimizer.zero_grad()
        loss.backward()
        size = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
        close(found.loss, loss.detach(), 1e-10)
        close(found.metrics["accuracy"], right, 1e-12)
        assert found.grad_norm is not None
        close(found.grad_norm, size, 1e-8)
        assert found.stats["loss"].shape == (TASKS,)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-8, atol=1e-10)
    assert torch.equal(ours[1].running_mean, torch.zeros(6))  # no forward pass has changed the module


def test_a_clipped_step_is_as_long_as_the_clip() -> None:
    """By SGD: Adam does not mind the scale of a gradient."""
    module = net()
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    meta = mf.MetaOptimizer(module, F.cross_entropy, optimizer, inner, clip=1e-2)
    before = torch.cat([p.detach().flatten() for p in module.parameters()])
    found = meta.step(tasks())
    after = torch.cat([p.detach().flatten() for p in module.parameters()])
    assert found.grad_norm is not None and found.grad_norm > 0.1
    assert (after - before).norm().item() == pytest.approx(1e-2, rel=1e-4)


def test_backward_only_adds_to_grad() -> None:
    module = net()
    meta = meta_for(module)
    before = [p.clone() for p in module.parameters()]
    expected = torch.autograd.grad(by_hand(module, tasks(0))[0], list(module.parameters()))
    meta.backward(tasks(0), weight=0.5)
    meta.backward(tasks(0), weight=torch.tensor(1.5))
    for p, b, g in zip(module.parameters(), before, expected, strict=True):
        assert torch.equal(p, b)
        assert p.grad is not None
        assert torch.allclose(p.grad, 2 * g, rtol=1e-8, atol=1e-12)


def test_a_scheduler_and_pairs_of_sets() -> None:
    module = net()
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
    meta = mf.MetaOptimizer(module, F.cross_entropy, optimizer, inner, scheduler=scheduler)
    batch = tasks()
    meta.step((batch["support"], batch["query"]))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize("batching", [mf.Vmap(), mf.Vmap(chunk=3), mf.Loop()], ids=repr)
def test_evaluation_is_that_of_adapted_copies(batching: Any) -> None:
    """With the inner problem of the test, here of more steps, and without a trace in the module."""
    module, batch = net(), tasks()
    meta = meta_for(
        module,
        tasks=batching,
        metrics={"accuracy": accuracy},
        test_inner=lambda problem: mf.gradient_descent(**problem, lr=LR, steps=2 * STEPS),
    )
    before = [p.clone() for p in module.parameters()]
    found = meta.evaluate(batch)
    assert set(found) == {"loss", "accuracy"}
    for i in range(TASKS):
        task = {name: tuple(x[i] for x in batch[name]) for name in ("support", "query")}
        phi = {name: p.detach() for name, p in module.named_parameters()}
        for _ in range(2 * STEPS):
            phi = {name: p.requires_grad_() for name, p in phi.items()}
            loss = F.cross_entropy(functional_call(module, phi, (task["support"][0],)), task["support"][1])
            slopes = torch.autograd.grad(loss, list(phi.values()))
            phi = {n: (p - LR * g).detach() for (n, p), g in zip(phi.items(), slopes, strict=True)}
        for copied, expected in zip(meta.adapt(task["support"]).parameters(), phi.values(), strict=True):
            close(copied.detach(), expected, 1e-10)
        outputs = functional_call(module, phi, (task["query"][0],))
        close(found["loss"][i], F.cross_entropy(outputs, task["query"][1]), 1e-10)
        close(found["accuracy"][i], accuracy(outputs, task["query"][1]), 1e-12)
    assert all(torch.equal(p, b) and p.grad is None for p, b in zip(module.parameters(), before, strict=True))
    assert meta.steps == 0
    close(meta.step(batch).loss, by_hand(net(), batch)[0].detach(), 1e-10)  # training keeps its own steps


def test_an_adapted_copy_for_deployment() -> None:
    module = net()
    meta = meta_for(module, adapt="3")
    batch = tasks()
    x, y = (z[0] for z in batch["support"])
    adapted = meta.adapt((x, y))
    assert all(not p.grad_fn for p in adapted.parameters())
    with torch.no_grad():
        assert F.cross_entropy(adapted(x), y) < F.cross_entropy(module(x), y)
    assert torch.equal(adapted[0].weight, module[0].weight)
    assert not torch.equal(adapted[3].weight, module[3].weight)
    adapted[0].weight.data.add_(1)
    assert not torch.equal(adapted[0].weight, module[0].weight)


@pytest.mark.parametrize("randomness", ["error", "same", "different"])
def test_a_run_that_was_stopped_goes_on_to_the_bit(randomness: Any, tmp_path: Path) -> None:
    def start() -> tuple[nn.Module, mf.MetaOptimizer]:
        module = net(norm=False)
        if randomness != "error":
            module = nn.Sequential(nn.Dropout(0.3), module)
        optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
        return module, mf.MetaOptimizer(
            module, F.cross_entropy, optimizer, inner, scheduler=scheduler, randomness=randomness, seed=7
        )

    def run(meta: mf.MetaOptimizer, steps: range) -> list[Tensor]:
        # The tasks come from torch's own generator, whose state is part of what is saved.
        found = []
        for _ in steps:
            x, y = torch.randn(2, TASKS, 8, 4), torch.randint(3, (2, TASKS, 8))
            found.append(meta.step({"support": (x[0], y[0]), "query": (x[1], y[1])}).loss)
        return found

    torch.manual_seed(5)
    whole_module, whole = start()
    torch.manual_seed(5)
    losses = run(whole, range(6))
    first_module, first = start()
    torch.manual_seed(5)
    run(first, range(3))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    del first, first_module
    torch.manual_seed(99)
    module, again = start()
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    rest = run(again, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(rest, losses[3:], strict=True))
    for p, q in zip(module.parameters(), whole_module.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("batching", [mf.Vmap(), mf.Loop()], ids=repr)
def test_statistics_of_the_task(batching: Any) -> None:
    """The query set is normalised with the support set's statistics, by hand and in the copy for deployment."""
    module = net()
    batch = tasks()
    meta = meta_for(module, buffers="task", tasks=batching)

    def outer(i: int) -> Tensor:
        params = dict(module.named_parameters())
        (x, y), (u, w) = ((z[i] for z in batch[name]) for name in ("support", "query"))
        free = nn.Sequential(module[0], nn.BatchNorm1d(6, track_running_stats=False), *module[2:])
        for _ in range(STEPS):
            loss = F.cross_entropy(functional_call(free, params, (x,)), y)
            slopes = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            params = {n: p - LR * g for (n, p), g in zip(params.items(), slopes, strict=True)}
        hidden, asked = (F.linear(z, params["0.weight"], params["0.bias"]) for z in (x, u))
        normal = (asked - hidden.mean(0)) / (hidden.var(0) + 1e-5).sqrt() * params["1.weight"] + params[
            "1.bias"
        ]
        outputs = F.linear(torch.tanh(normal), params["3.weight"], params["3.bias"])
        adapted = meta.adapt((x, y))
        assert not adapted.training
        assert torch.allclose(adapted(u), outputs, atol=1e-10)
        assert torch.allclose(adapted(u[:1]), outputs[:1], atol=1e-10)
        return F.cross_entropy(outputs, w)

    expected = torch.autograd.grad(sum(map(outer, range(TASKS))) / TASKS, list(module.parameters()))
    meta.backward(batch)
    for p, g in zip(module.parameters(), expected, strict=True):
        assert p.grad is not None
        assert torch.allclose(p.grad, g, rtol=1e-8, atol=1e-10)
    assert module.training
    assert torch.equal(module[1].running_mean, torch.zeros(6))


def test_dropout_keys() -> None:
    module = nn.Sequential(nn.Dropout(0.5), net(norm=False))
    one = tasks(count=1)
    batch = {k: tuple(x.expand(3, *x.shape[1:]) for x in v) for k, v in one.items()}
    losses = {
        kind: meta_for(module, randomness=kind).backward(batch).stats["loss"]
        for kind in ("same", "different")
    }
    assert len(losses["same"].unique()) == 1
    assert len(losses["different"].unique()) == 3
    stepwise = (
        meta_for(module, randomness="different", step_randomness="different").backward(batch).stats["loss"]
    )
    assert not torch.equal(stepwise, losses["different"])
    with pytest.raises(ValueError, match="step_randomness: expected 'same' or 'different', got 'no'"):
        meta_for(module, step_randomness="no")
    meta = meta_for(module, randomness="different")
    assert not torch.equal(
        meta.backward(batch).stats["loss"], meta.backward(batch).stats["loss"]
    )  # nor in every step
    for batching in (mf.Loop(), mf.Vmap(chunk=2)):
        module.zero_grad()
        found = meta_for(module, randomness="different", tasks=batching).backward(batch)
        close(found.stats["loss"], losses["different"], 1e-12)


def test_a_learned_rate_is_a_parameter_of_the_module() -> None:
    module = net()
    module.register_parameter("log_lr", nn.Parameter(torch.tensor(-1.0)))
    layers = [str(i) for i in range(4) if i != 2]
    meta = meta_for(
        module,
        adapt=layers,
        inner=lambda p: mf.gradient_descent(**p, lr=lambda theta: theta["log_lr"].exp(), steps=STEPS),
    )
    meta.backward(tasks())
    found = module.log_lr.grad
    h = 1e-5
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            module.log_lr.fill_(-1.0 + sign * h)
        losses.append(meta.backward(tasks()).loss)
    close(found, (losses[0] - losses[1]) / (2 * h), 1e-6)


ESTIMATORS = [
    mf.Explicit(),
    mf.Explicit(checkpoint=True),
    mf.FirstOrder(),
    mf.Truncated(1),
    mf.Binomial(2),
    mf.Implicit(),
    mf.FiniteDifference(),
    mf.Reptile(),
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_memory_is_flat(estimator: mf.Estimator) -> None:
    """After every meta-step as many tensors are alive as after the one before."""
    solved = isinstance(estimator, mf.Implicit | mf.FiniteDifference)
    meta = meta_for(net(), estimator, inner=proximal if solved else inner)
    gc.collect()
    gc.freeze()  # what was there before is no concern of this, and there is much of it
    counts = []
    for k in range(6):
        meta.step(tasks(k))
        gc.collect()
        counts.append(sum(issubclass(type(x), Tensor) for x in gc.get_objects()))
    gc.unfreeze()
    assert counts[2] == counts[3] == counts[4] == counts[5]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: mf.MetaOptimizer(
                net(), F.cross_entropy, torch.optim.SGD(net().parameters(), lr=1.0), inner
            ),
            ValueError,
            "optimizer: expected an optimizer of the module's own parameters, got one in which 6 of 6",
        ),
        (
            lambda: mf.MetaOptimizer(net(), F.cross_entropy, 3, inner),
            TypeError,
            "optimizer: expected a torch.optim",
        ),
        (lambda: meta_for(net(), clip=0.0), ValueError, "clip: expected None or a positive number, got 0.0"),
        (lambda: meta_for(net(), tasks=3), TypeError, r"tasks: expected Vmap\(\)"),
        (lambda: meta_for(net().eval()).step(tasks()), ValueError, "a BatchNorm1d in eval mode"),
        (
            lambda: meta_for(net()).step({"train": 1}),
            ValueError,
            r"tasks: expected a mapping.*got a mapping with \['train'\]",
        ),
        (lambda: meta_for(net()).step(3), ValueError, "tasks: expected a mapping"),
        (
            lambda: mf.MetaOptimizer(
                (m := net()),
                lambda out, y: F.cross_entropy(out.detach(), y),
                torch.optim.SGD(m.parameters()),
                inner,
            ).step(tasks()),
            ValueError,
            "loss_fn: expected a loss that depends on the parameters that are adapted, got one that depends on none of 0.weight",
        ),
        (
            lambda: meta_for(net()).load_state_dict(meta_for(net(), mf.FirstOrder()).state_dict()),
            ValueError,
            r"state: expected that of a loop with estimator=Explicit\(\), got that of one with estimator=FirstOrder\(\)",
        ),
        (
            lambda: meta_for(nn.Sequential(net(), nn.ReLU(inplace=True), Overwriting())).step(tasks()),
            RuntimeError,
            "inplace|in-place",
        ),
    ],
)
def test_bad_input(make: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        make()


class Overwriting(nn.Module):
    """Writes into what the layer before needs for its derivative."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.exp(x)
        y += 1
        return y


def test_a_copy_of_the_module_is_left_alone() -> None:
    module = net()
    before = copy.deepcopy(module.state_dict())
    meta_for(module).backward(tasks())
    meta_for(module).adapt(tuple(x[0] for x in tasks()["support"]))
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch, torch.nn.functional as F
import metafunc as mf

folder, dies = Path(sys.argv[1]), int(sys.argv[2])
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Dropout(0.2), torch.nn.Tanh(), torch.nn.Linear(6, 3))
optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
meta = mf.MetaOptimizer(
    net, F.cross_entropy, optimizer, lambda p: mf.gradient_descent(**p, lr=0.3, steps=2), randomness="different"
)
if (folder / "state.pt").exists():
    meta.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
while meta.steps < 20:
    x, y = torch.randn(2, 3, 5, 4), torch.randint(3, (2, 3, 5))
    meta.step({"support": (x[0], y[0]), "query": (x[1], y[1])})
    torch.save(meta.state_dict(), folder / "new.pt")
    if meta.steps == dies:
        os.kill(os.getpid(), signal.SIGKILL)
    os.replace(folder / "new.pt", folder / "state.pt")
"""


def test_a_killed_process_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process dies in the middle of saving; this one goes on, and makes the whole as well."""
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    cut = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "cut"), "7"], env=environment, check=False
    )
    assert cut.returncode == -signal.SIGKILL
    assert torch.load(tmp_path / "cut" / "state.pt", weights_only=True)["steps"] == 6
    for name in ("whole", "cut"):
        monkeypatch.setattr(sys, "argv", ["", str(tmp_path / name), "0"])
        exec(compile(SCRIPT, "SCRIPT", "exec"), {})
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "cut")]
    assert states[0]["steps"] == states[1]["steps"] == 20
    for name, value in states[0]["module"].items():
        assert torch.equal(value, states[1]["module"][name])


class Tempered(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.scale.exp() * F.mse_loss(outputs, targets)


@pytest.mark.parametrize("where", ["loss", "rate", "function of the module"])
def test_what_is_learned_beside_theta_is_refused(where: str) -> None:
    """It would get no gradient: MetaOptimizer gives one to the module's parameters as theta has them."""
    net = nn.Linear(3, 1)
    net.register_parameter("log_lr", nn.Parameter(torch.tensor(-2.0)))
    rates = {
        "loss": 0.1,
        "rate": nn.Parameter(torch.tensor(0.1)),
        "function of the module": lambda _: net.log_lr.exp(),
    }
    rate: Any = rates[where]
    meta = mf.MetaOptimizer(
        net,
        Tempered() if where == "loss" else F.mse_loss,
        torch.optim.SGD(net.parameters(), lr=0.1),
        lambda p: mf.gradient_descent(**p, lr=rate, steps=2),
        adapt=["weight", "bias"],
    )
    tasks = (torch.ones(2, 5, 3), torch.ones(2, 5, 1))
    text = (
        "loss_fn, inner: expected functions that reach what is learned through theta.* got a captured float64"
    )
    with pytest.raises(mf.ZeroGradientError, match=text):
        meta.step((tasks, tasks))
