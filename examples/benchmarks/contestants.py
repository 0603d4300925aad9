"""Ways to compute the meta-gradient of a batch of tasks: by hand, by other libraries, and by metafunc.

Every function here returns the mean over the tasks of the gradient in the initial parameters, as a dict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from problems import Batch, Params, Problem
from torch import Tensor
from torch.func import grad, vmap

import metafunc as mf


def plain_loop(problem: Problem, prox: float = 0.0) -> Params:
    """Autograd through an unrolled inner loop, one task after the other: what everybody writes first."""
    theta = {name: p.clone().requires_grad_() for name, p in problem.theta.items()}
    total = {name: torch.zeros_like(p) for name, p in theta.items()}
    for i in range(problem.tasks):
        support, query = problem.task(i)
        phi = theta
        for _ in range(problem.steps):
            value = problem.loss(phi, support)
            if prox:
                value = value + prox / 2 * sum(((phi[n] - theta[n]) ** 2).sum() for n in phi)
            slopes = torch.autograd.grad(value, list(phi.values()), create_graph=True)
            phi = {n: p - problem.lr * g for (n, p), g in zip(phi.items(), slopes, strict=True)}
        bars = torch.autograd.grad(problem.loss(phi, query), list(theta.values()))
        total = {n: t + bar for (n, t), bar in zip(total.items(), bars, strict=True)}
    return {n: t / problem.tasks for n, t in total.items()}


def unrolled(problem: Problem) -> Callable[[Params, Batch, Batch], Tensor]:
    """The outer loss of one task as a differentiable function, from the torch.func tutorial's recipe."""

    def meta_loss(theta: Params, support: Batch, query: Batch) -> Tensor:
        phi = theta
        for _ in range(problem.steps):
            slope = grad(problem.loss)(phi, support)
            phi = {n: phi[n] - problem.lr * slope[n] for n in phi}
        return problem.loss(phi, query)

    return meta_loss


def over_tasks(
    problem: Problem,
    meta_loss: Callable[[Params, Batch, Batch], Tensor],
    make: Callable[..., Callable[..., Params]] = lambda fn: fn,
) -> Callable[[], Params]:
    """``vmap(grad(meta_loss))`` over the batch of tasks, made into something else if wanted, and the mean."""
    each = make(vmap(grad(meta_loss), in_dims=(None, 0, 0)))
    return lambda: {n: g.mean(0) for n, g in each(problem.theta, problem.support, problem.query).items()}


def stacked_autograd(problem: Problem) -> Params:
    """The fastest that we know by hand in eager mode: ``vmap`` of the loss alone, and autograd outside of it.

    Every task has its own copy of theta. The tasks do not interact, so the gradient of the sum of their losses holds
    the gradient of each.
    """
    losses = vmap(problem.loss)
    theta = {n: p.expand(problem.tasks, *p.shape).clone().requires_grad_() for n, p in problem.theta.items()}
    phi = theta
    for _ in range(problem.steps):
        value = losses(phi, problem.support).sum()
        slopes = torch.autograd.grad(value, list(phi.values()), create_graph=True)
        phi = {n: p - problem.lr * g for (n, p), g in zip(phi.items(), slopes, strict=True)}
    bars = torch.autograd.grad(losses(phi, problem.query).sum(), list(theta.values()))
    return {n: bar.mean(0) for n, bar in zip(theta, bars, strict=True)}


def higher_loop(problem: Problem) -> Params:
    """higher's ``innerloop_ctx``, as in its MAML example."""
    import higher

    names, params = zip(*problem.net.named_parameters(), strict=True)
    optimizer = torch.optim.SGD(problem.net.parameters(), lr=problem.lr)
    total = [torch.zeros_like(p) for p in params]
    for i in range(problem.tasks):
        (x, y), (u, w) = problem.task(i)
        # Without copy_initial_weights=False the unrolled loop would start from copies, out of theta's reach.
        with higher.innerloop_ctx(problem.net, optimizer, copy_initial_weights=False) as (net, inner):
            for _ in range(problem.steps):
                inner.step(problem.criterion(net(x), y))
            bars = torch.autograd.grad(problem.criterion(net(u), w), params)
        total = [t + bar for t, bar in zip(total, bars, strict=True)]
    return {n: t / problem.tasks for n, t in zip(names, total, strict=True)}


def torchopt_loop(problem: Problem) -> Params:
    """TorchOpt's ``MetaSGD`` with its state saved and put back for every task, as in its MAML example."""
    import torchopt

    names, params = zip(*problem.net.named_parameters(), strict=True)
    inner = torchopt.MetaSGD(problem.net, lr=problem.lr)
    start = torchopt.extract_state_dict(problem.net, by="reference")
    fresh = torchopt.extract_state_dict(inner, by="reference")
    total = [torch.zeros_like(p) for p in params]
    for i in range(problem.tasks):
        (x, y), (u, w) = problem.task(i)
        for _ in range(problem.steps):
            inner.step(problem.criterion(problem.net(x), y))
        bars = torch.autograd.grad(problem.criterion(problem.net(u), w), params)
        total = [t + bar for t, bar in zip(total, bars, strict=True)]
        torchopt.recover_state_dict(problem.net, start)
        torchopt.recover_state_dict(inner, fresh)
    return {n: t / problem.tasks for n, t in zip(names, total, strict=True)}


@dataclass(frozen=True)
class Need:
    """What an estimator must do for one task according to its docstring, the outer gradient included."""

    gradients: int
    products: int


@dataclass(frozen=True)
class Contestant:
    """One row of the benchmark.

    Attributes:
        name: For the table.
        run: Computes the meta-gradient.
        exact: Whether it is the exact derivative of the path, which all such rows must agree on.
        prox: The weight of the proximal term in its inner problem.
        need: What it must do for a task.
        tally: The same for counting, task by task; ``run`` itself unless given.
        in_turn: Whether it takes task after task, so that its time is in proportion to their number.
    """

    name: str
    run: Callable[[], Params]
    exact: bool
    need: Need
    prox: float = 0.0
    tally: Callable[[], Params] | None = None
    in_turn: bool = False


PROX = 2.0
"""For the estimators of the derivative of a solution, which have none without a proximal term."""


def contestants(problem: Problem, loops: bool = False) -> tuple[list[Contestant], list[str]]:
    """All rows for one problem, and the names of those whose library is not installed.

    ``loops`` has every estimator run over the tasks in turn as well.
    """
    k = problem.steps
    exact = Need(k + 1, k)
    missing = [name for name in ("higher", "torchopt") if find_spec(name) is None]

    rows = [Contestant("plain autograd loop", lambda: plain_loop(problem), True, exact, in_turn=True)]
    for name, loop in ("higher", higher_loop), ("torchopt", torchopt_loop):
        if name not in missing:
            rows.append(Contestant(name, lambda loop=loop: loop(problem), True, exact, in_turn=True))
    rows += [
        Contestant("textbook vmap(grad)", over_tasks(problem, unrolled(problem)), True, exact),
        Contestant("stacked, by hand", lambda: stacked_autograd(problem), True, exact),
    ]

    def inner(prox: float) -> mf.Inner:
        return mf.gradient_descent(problem.loss, lr=problem.lr, steps=k, prox=prox)

    adapt = mf.Explicit()(inner(0.0))

    def meta_loss(theta: Params, support: Batch, query: Batch) -> Tensor:
        return problem.loss(adapt(theta, support), query)

    rows.append(Contestant("mf vmap(grad(..)) Explicit()", over_tasks(problem, meta_loss), True, exact))

    depth = order = min(2, k)
    table: list[tuple[mf.Estimator, Need, float]] = [
        (mf.Explicit(), exact, 0.0),
        (mf.Explicit(checkpoint=True), Need(2 * k + 1, k), 0.0),
        (mf.Truncated(depth), Need(k + depth + 1, depth), 0.0),
        (mf.Binomial(order), Need(k + 1, order * (k - order + 1)), 0.0),
        (mf.FirstOrder(), Need(k + 1, 0), 0.0),
        (mf.Reptile(), Need(k, 0), 0.0),
        (mf.Implicit(mf.CG(max_steps=5, rtol=0.0)), Need(k + 3, 5), PROX),
        (mf.FiniteDifference(), Need(3 * k + 5, 0), PROX),
    ]
    for batching, chosen in (mf.Vmap(), table), (mf.Loop(), table if loops else table[:1]):
        rows += [_metafunc(problem, e, inner(prox), need, prox, batching) for e, need, prox in chosen]
    return rows, missing


def _metafunc(
    problem: Problem,
    estimator: mf.Estimator,
    inner: mf.Inner,
    need: Need,
    prox: float,
    batching: mf.Vmap | mf.Loop,
) -> Contestant:
    """``mf.meta_grad`` with one estimator."""

    def gradient(tasks: mf.Vmap | mf.Loop) -> Callable[[], Params]:
        of_batch = mf.meta_grad(problem.loss, estimator(inner), tasks=tasks)
        return lambda: of_batch(problem.theta, problem.support, problem.query).grad

    return Contestant(
        f"mf {batching!r} {estimator!r}",
        gradient(batching),
        isinstance(estimator, mf.Explicit),
        need,
        prox,
        gradient(mf.Loop()),
        isinstance(batching, mf.Loop),
    )
