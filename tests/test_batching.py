"""Lists of tasks, of one size and of several; batches that are none; and what torch cannot map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import metafunc as mf
from metafunc import bayes
from tests.tasks import close

STEPS, LR = 2, 0.1
SIZES = ((3, 5), (6, 2), (1, 4))


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ragged(sizes: Any = SIZES) -> list[dict[str, tuple[Tensor, Tensor]]]:
    """Tasks of linear regression, with so many samples to learn from and to be asked."""

    def batch(size: int, seed: int) -> tuple[Tensor, Tensor]:
        x = drawn(size, 3, seed=seed)
        return x, x @ drawn(3, 1, seed=seed + 50) + 0.3

    return [{"support": batch(n, i), "query": batch(m, i + 20)} for i, (n, m) in enumerate(sizes)]


def stacked(tasks: list[dict[str, tuple[Tensor, Tensor]]]) -> dict[str, tuple[Tensor, ...]]:
    return {
        name: tuple(torch.stack(x) for x in zip(*(task[name] for task in tasks), strict=True))
        for name in ("support", "query")
    }


def loss(phi: Tensor, batch: Any) -> Tensor:
    return ((torch.tanh(batch[0] @ phi) - batch[1][..., 0]) ** 2).mean()


ADAPT = mf.Explicit()(mf.gradient_descent(loss, lr=LR, steps=STEPS))
THETA = drawn(3, seed=9)


def by_hand(tasks: list[Any]) -> tuple[Tensor, Tensor]:
    """The mean outer loss and its gradient by plain autograd through every step."""
    theta = THETA.clone().requires_grad_()
    total = torch.zeros(())
    for task in tasks:
        phi = theta
        for _ in range(STEPS):
            phi = phi - LR * torch.autograd.grad(loss(phi, task["support"]), phi, create_graph=True)[0]
        total = total + loss(phi, task["query"]) / len(tasks)
    return total.detach(), torch.autograd.grad(total, theta)[0]


def test_tasks_of_different_size() -> None:
    found = mf.meta_grad(loss, ADAPT, tasks=mf.Loop())(THETA, ragged())
    value, slope = by_hand(ragged())
    close(found.value, value, 1e-12)
    close(found.grad, slope, 1e-12)
    assert found.phi.shape == (3, 3) and found.stats["loss"].shape == (3,)


@pytest.mark.parametrize("batching", [mf.Vmap(), mf.Vmap(chunk=2), mf.Loop()], ids=repr)
def test_a_list_of_tasks_of_one_size_is_a_batch(batching: Any) -> None:
    tasks = ragged([(4, 2)] * 3)
    batch, f = stacked(tasks), mf.meta_grad(loss, ADAPT, tasks=batching)
    listed, wanted = f(THETA, tasks), f(THETA, batch["support"], batch["query"])
    close(listed.grad, wanted.grad, 1e-14)
    close(listed.grad, by_hand(tasks)[1], 1e-12)


def test_other_data_of_a_task_come_in_the_order_of_their_names() -> None:
    """Here the loss has a weight for every task."""

    def weighted(phi: Tensor, batch: Any, weight: Tensor) -> Tensor:
        return weight * loss(phi, batch)

    adapt = mf.Explicit()(mf.gradient_descent(weighted, lr=LR, steps=STEPS))
    tasks: list[Any] = [{**task, "weight": torch.tensor(1.0 + i)} for i, task in enumerate(ragged())]
    f = mf.meta_grad(loss, adapt, tasks=mf.Loop())
    each = [mf.meta_grad(loss, adapt)(THETA, t["support"], t["weight"], t["query"]).grad for t in tasks]
    close(f(THETA, tasks).grad, torch.stack(each).mean(0), 1e-12)


def test_outcomes_of_different_size_are_a_list() -> None:
    def outer(phi: Tensor, query: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return loss(phi, query), {"outputs": query[0] @ phi, "size": torch.tensor(len(query[0]))}

    found = mf.meta_grad(outer, ADAPT, tasks=mf.Loop(), has_aux=True)(THETA, ragged())
    assert [len(x) for x in found.aux["outputs"]] == [5, 2, 4]
    assert found.aux["size"].tolist() == [5, 2, 4]
    close(found.aux["outputs"][1], ragged()[1]["query"][0] @ found.phi[1], 1e-14)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def inner(problem: dict[str, Any]) -> mf.Inner:
    return mf.gradient_descent(**problem, lr=LR, steps=STEPS)


def meta_for(module: nn.Module, **options: Any) -> mf.MetaOptimizer:
    return mf.MetaOptimizer(
        module, F.mse_loss, torch.optim.SGD(module.parameters(), lr=0.5), inner, **options
    )


@pytest.mark.parametrize("randomness", ["error", "different"])
def test_a_meta_optimizer_takes_tasks_of_different_size(randomness: Any) -> None:
    module = net() if randomness == "error" else nn.Sequential(nn.Dropout(0.5), net())
    meta = meta_for(module, tasks=mf.Loop(), randomness=randomness)
    before = [p.detach().clone() for p in module.parameters()]
    losses = meta.evaluate(ragged())["loss"]
    found = meta.backward(ragged())
    close(found.stats["loss"], losses, 1e-12)
    total = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    if randomness == "error":
        each = [meta_for(net()) for _ in SIZES]
        for one, task in zip(each, ragged(), strict=True):
            one.backward(stacked([task]), weight=1 / len(SIZES))
        for i, slope in enumerate(total):
            parts = [list(one.model.module.parameters())[i].grad for one in each]
            close(slope, torch.stack([p for p in parts if p is not None]).sum(0), 1e-10)
    meta.steps = 0
    meta.step(ragged())
    for p, old, slope in zip(module.parameters(), before, total, strict=True):
        close(p.detach(), old - 0.5 * slope, 1e-12)


def test_statistics_of_a_support_set_of_its_own_size() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    sizes = ((3, 5), (6, 2))
    meta = meta_for(module, tasks=mf.Loop(), buffers="task")
    together = meta.evaluate(ragged(sizes))["loss"]
    alone = [meta.evaluate(stacked([task]))["loss"] for task in ragged(sizes)]
    close(together, torch.cat(alone), 1e-12)


def test_a_bayesian_learner_takes_them_too() -> None:
    torch.manual_seed(0)
    prior = bayes.Prior(nn.Linear(3, 1), 0.1)
    optimizer = torch.optim.SGD(prior.parameters(), lr=0.1)
    learner = bayes.BayesianLearner(
        prior, F.mse_loss, optimizer, inner, kl_weight=0.1, samples=2, tasks=mf.Loop()
    )
    losses = learner.evaluate(ragged())["loss"]
    assert losses.shape == (3,) and losses.isfinite().all()
    assert learner.step(ragged()).loss.isfinite()
    assert [len(x[0]) for x in learner.predict(ragged())] == [5, 2, 4]


def recurrent() -> nn.Module:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = nn.GRUCell(3, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.cell(x))

    return Cell()


EMPTY_X, EMPTY_Y = drawn(0, 4, 3, seed=0), drawn(0, 4, 1, seed=0)
EMPTY = {
    "support": (EMPTY_X, EMPTY_Y),
    "query": (EMPTY_X, EMPTY_Y),
}
WHOLE = stacked(ragged([(4, 2)] * 3))
ODD: dict[str, tuple[Any, type[Exception], str]] = {
    "different size": (ragged(), ValueError, r"tasks: expected tasks of one shape.*\[\[6, 3\], \[6, 1\]\] in task 1 .*Use tasks=mf.Loop\(\)"),
    "no tasks in a list": ([], ValueError, "tasks: expected at least one task, got none"),
    "no tasks": (EMPTY, ValueError, "tasks: expected at least one task, got none"),
    "a list with a pair": ([ragged()[0], (1, 2), (3, 4)], ValueError, "tasks: expected a mapping"),
    "no query": ([ragged()[0], {"support": 1}], ValueError, r"tasks\[1\]: expected a mapping with .support. and .query."),
    "more in one": ([ragged()[0], {**ragged()[1], "key": 1}], ValueError, r"tasks\[1\]: .*same entries as the first task"),
    "numbers of tasks": ({**WHOLE, "query": tuple(x[:2] for x in WHOLE["query"])}, ValueError, r"same leading axis of tasks, got leading sizes \['2', '3'\]"),
    "inputs without targets": ({**WHOLE, "query": (WHOLE["query"][0], WHOLE["query"][1][:1])}, ValueError, r"leading sizes \['1', '3'\]"),
    "arrays": ({**WHOLE, "support": tuple(x.numpy() for x in WHOLE["support"])}, TypeError, r"torch tensors, got numpy's ndarray. Turn it into a tensor first, with torch.from_numpy"),
    "an array beside tensors": ({**WHOLE, "query": (WHOLE["query"][0], np.zeros((3, 2, 1)))}, TypeError, "torch tensors, got numpy's ndarray"),
    "arrays in a list": ([{name: (x.numpy(), y) for name, (x, y) in task.items()} for task in ragged()], TypeError, "numpy's ndarray"),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("method", ["step", "backward", "evaluate"])
def test_batches_that_are_none(what: str, method: str) -> None:
    tasks, kind, text = ODD[what]
    meta = meta_for(net())
    with pytest.raises(kind, match=text):
        getattr(meta, method)(tasks)
    assert meta.steps == 0


@pytest.mark.parametrize("batching", [mf.Vmap(), mf.Vmap(chunk=2), mf.Loop()], ids=repr)
def test_evaluation_of_sets_of_other_numbers_is_refused(batching: Any) -> None:
    """Every query set has a support set: nothing is scored by half."""
    tasks = {**WHOLE, "support": tuple(x[:2] for x in WHOLE["support"])}
    with pytest.raises(ValueError, match=r"leading sizes \['2', '3'\]"):
        meta_for(net(), tasks=batching).evaluate(tasks)


@pytest.mark.parametrize("what", ["no tasks", "numbers of tasks", "arrays", "different size"])
def test_meta_grad_says_the_same(what: str) -> None:
    tasks, kind, text = ODD[what]
    f = mf.meta_grad(loss, ADAPT, tasks=mf.Vmap())
    with pytest.raises(kind, match=text):
        f(THETA, *([tasks] if isinstance(tasks, list) else tasks.values()))


def test_adapt_asks_for_tensors() -> None:
    with pytest.raises(TypeError, match=r"at \[0\]: expected torch tensors, got numpy's ndarray"):
        meta_for(net()).adapt((np.zeros((4, 3)), np.zeros((4, 1))))


UNMAPPED: dict[str, Any] = {
    "mask": lambda p, b: loss(p, tuple(x[b[1][..., 0] > -9] for x in b)),
    "item": lambda p, b: loss(p, b) * (1.0 if b[1].sum().item() > -99 else 2.0),
    "one hot": lambda p, b: loss(p, b) + F.one_hot((b[1][..., 0] > 0).long()).double().mean(),
    "branch": lambda p, b: loss(p, b) if b[1].sum() > -99 else 2 * loss(p, b),
    "list": lambda p, b: loss(p, b) * len(b[1].tolist()),
}


@pytest.mark.parametrize("what", UNMAPPED)
@pytest.mark.parametrize("batching", [mf.Vmap(), mf.Vmap(chunk=2)], ids=repr)
def test_what_cannot_be_mapped_can_be_looped(what: str, batching: Any) -> None:
    adapt = mf.Explicit()(mf.gradient_descent(UNMAPPED[what], lr=LR, steps=STEPS))
    data = WHOLE["support"], WHOLE["query"]
    with pytest.raises(RuntimeError, match=r"that runs task by task only.*Take tasks=mf.Loop\(\)"):
        mf.meta_grad(loss, adapt, tasks=batching)(THETA, *data)
    assert mf.meta_grad(loss, adapt, tasks=mf.Loop())(THETA, *data).grad.isfinite().all()


def test_a_cell_that_cannot_be_mapped() -> None:
    """torch says nothing of mapping here, but of a shape."""
    for method in ("backward", "evaluate"):
        with pytest.raises(RuntimeError, match=r"Take tasks=mf.Loop\(\)"):
            getattr(meta_for(recurrent()), method)(WHOLE)
    assert meta_for(recurrent(), tasks=mf.Loop()).step(WHOLE).loss.isfinite()


def test_an_error_of_the_loss_is_left_as_it_is() -> None:
    def wrong(phi: Tensor, batch: Any) -> Tensor:
        return loss(phi[:2], batch)

    adapt = mf.Explicit()(mf.gradient_descent(wrong, lr=LR, steps=1))
    with pytest.raises(RuntimeError, match=r"size|shape") as raised:
        mf.meta_grad(loss, adapt, tasks=mf.Vmap())(THETA, WHOLE["support"], WHOLE["query"])
    assert "Loop()" not in str(raised.value)


@pytest.mark.parametrize("chunk", [0, -1, True, 1.5, "2"])
def test_chunks_are_whole_numbers(chunk: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="chunk: expected None or an integer of at least 1"):
        mf.Vmap(chunk=chunk)
