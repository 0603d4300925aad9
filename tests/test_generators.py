"""Losses that draw from torch's generators: the derivative is that of the path that was taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jvp, vmap

import metafunc as mf
from metafunc.generators import Snapshot, Tape, refusing_draws, taped, undisturbed
from tests.tasks import close

K, LR = 5, 0.5
SEED = torch.Generator().manual_seed(0)
THETA, X, Y = (torch.randn(n, m, generator=SEED, dtype=torch.float64) for n, m in ((3, 2), (8, 3), (8, 2)))
CPU = {torch.device("cpu")}


def noise(x: Tensor) -> Tensor:
    return x + 0.5 * torch.randn(x.shape)


def masked(x: Tensor) -> Tensor:
    return F.dropout(x, 0.3)


def permuted(x: Tensor) -> Tensor:
    return x[torch.randperm(len(x))]


def numpy_like(x: Tensor) -> Tensor:
    return x * torch.empty(x.shape).uniform_(0.5, 1.5)


DRAWS = (noise, masked, permuted, numpy_like)


def loss(draw: Callable[[Tensor], Tensor], phi: Tensor, batch: Any) -> Tensor:
    return (torch.tanh(draw(batch[0]) @ phi) - batch[1]).square().mean()


def outer(phi: Tensor) -> Tensor:
    return (torch.tanh(X @ phi) - Y).square().mean()


def by_hand(draw: Callable[[Tensor], Tensor], depth: int = K) -> Tensor:
    torch.manual_seed(0)
    start = phi = THETA.clone().requires_grad_()
    for k in range(K):
        if k == K - depth:
            start = phi = phi.detach().requires_grad_()
        slope = torch.autograd.grad(loss(draw, phi, (X, Y)), phi, create_graph=True)[0]
        phi = phi - LR * slope
    return torch.autograd.grad(outer(phi), start)[0]


CASES = [
    (mf.Explicit(), K),
    (mf.Explicit(checkpoint=True), K),
    (mf.Explicit(checkpoint=2), K),
    (mf.Truncated(K), K),
    (mf.Truncated(2), 2),
    (mf.Binomial(K), K),
    (mf.Binomial(1, window=1), 1),
    (mf.FirstOrder(), 0),
]


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(("estimator", "depth"), CASES, ids=str)
def test_recomputed_steps_draw_what_the_path_drew(estimator: mf.Estimator, depth: int, draw: Any) -> None:
    if depth == 0:
        torch.manual_seed(0)
        phi = THETA.clone()
        for _ in range(K):
            leaf = phi.detach().requires_grad_()
            phi = phi - LR * torch.autograd.grad(loss(draw, leaf, (X, Y)), leaf)[0]
        expected = grad(outer)(phi)
    else:
        expected = by_hand(draw, depth)
    adapt = estimator(mf.gradient_descent(lambda p, b: loss(draw, p, b), lr=LR, steps=K))
    for _ in range(2):
        torch.manual_seed(0)
        close(grad(lambda t: outer(adapt(t, (X, Y))))(THETA), expected, 1e-10)
    torch.manual_seed(0)
    leaf = THETA.clone().requires_grad_()
    outer(adapt(leaf, (X, Y))).backward()
    close(leaf.grad, expected, 1e-10)  # type: ignore[arg-type]
    # What is drawn next is what is drawn after the loop by hand.
    after = torch.rand(1)
    by_hand(draw)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize(
    "estimator", [mf.Explicit(checkpoint=True), mf.Truncated(K), mf.Binomial(K)], ids=repr
)
def test_in_forward_mode_and_by_differences(estimator: mf.Estimator) -> None:
    inner = mf.gradient_descent(lambda p, b: loss(noise, p, b), lr=LR, steps=K)
    direction = torch.randn(THETA.shape)
    torch.manual_seed(0)
    moved = jvp(lambda t: outer(estimator(inner)(t, (X, Y))), (THETA,), (direction,))[1]
    close(moved, (by_hand(noise) * direction).sum(), 1e-9)
    hessian_free = mf.Explicit(checkpoint=True, curvature=mf.CentralDifference())(inner)
    torch.manual_seed(0)
    close(grad(lambda t: outer(hessian_free(t, (X, Y))))(THETA), by_hand(noise), 1e-6)


@pytest.mark.parametrize(
    "estimator", [mf.Explicit(checkpoint=True), mf.Truncated(K), mf.Binomial(K)], ids=repr
)
@pytest.mark.parametrize("randomness", ["same", "different"])
def test_mapped(estimator: mf.Estimator, randomness: str) -> None:
    """Against Explicit, which keeps what it drew."""
    inner = mf.gradient_descent(lambda p, b: loss(noise, p, b), lr=LR, steps=K)
    tasks = torch.stack([X, 2 * X]), torch.stack([Y, -Y])

    def slopes(estimator: mf.Estimator) -> Tensor:
        adapt = estimator(inner)
        torch.manual_seed(0)
        each = grad(lambda t, x, y: outer(adapt(t, (x, y))))
        return vmap(each, in_dims=(None, 0, 0), randomness=randomness)(THETA, *tasks)

    expected = slopes(mf.Explicit())
    assert (expected[0] - expected[1]).norm() > 1e-3
    close(slopes(estimator), expected, 1e-10)


def test_a_loss_that_draws_late() -> None:
    """The first step draws nothing, the third one does."""
    count = [0]

    def late(phi: Tensor, batch: Any) -> Tensor:
        count[0] += 1
        return loss(noise if (phi - THETA).norm() > 0.3 else (lambda x: x), phi, batch)

    def gradient(estimator: mf.Estimator) -> Tensor:
        torch.manual_seed(0)
        adapt = estimator(mf.gradient_descent(late, lr=LR, steps=K))
        leaf = THETA.clone().requires_grad_()
        outer(adapt(leaf, (X, Y))).backward()
        return leaf.grad  # type: ignore[return-value]

    torch.manual_seed(0)
    phi, drew = THETA.clone().requires_grad_(), []
    start = phi
    for _ in range(K):
        before = torch.get_rng_state()
        phi = phi - LR * torch.autograd.grad(late(phi, (X, Y)), phi, create_graph=True)[0]
        drew.append(not torch.equal(before, torch.get_rng_state()))
    assert drew[0] is False
    assert drew[-1] is True
    expected = torch.autograd.grad(outer(phi), start)[0]
    for estimator in (mf.Explicit(checkpoint=True), mf.Truncated(K), mf.Binomial(K)):
        close(gradient(estimator), expected, 1e-10)


@pytest.mark.parametrize("estimator", [mf.Implicit(mf.CG(5)), mf.FiniteDifference()], ids=repr)
def test_estimators_of_the_solution_refuse_a_loss_that_draws(estimator: mf.Estimator) -> None:
    inner = mf.gradient_descent(lambda p, b: loss(noise, p, b), lr=LR, steps=K, prox=1.0)
    text = "an objective that is the same function at every evaluation, got one that draws random numbers"
    with pytest.raises(ValueError, match=text):
        grad(lambda t: outer(estimator(inner)(t, (X, Y))))(THETA)


def test_a_solver_may_draw_where_its_objective_does_not() -> None:
    target = torch.randn(2)

    @mf.Implicit(mf.CG(5))
    @mf.minimizes(lambda phi, theta: (phi - target).square().sum() + (phi - theta).square().sum())
    def adapt(theta: Tensor) -> Tensor:
        assert torch.rand(1) >= 0
        return (target + theta) / 2

    close(grad(lambda t: adapt(t).sum())(torch.ones(2)), torch.full((2,), 0.5), 1e-12)


def test_snapshots() -> None:
    before = Snapshot(CPU)
    assert not before.moved()
    first = torch.rand(3)
    assert before.moved()
    before.restore()
    assert not before.moved()
    assert torch.equal(torch.rand(3), first)
    with undisturbed(X):
        torch.rand(2)
    after = Snapshot(CPU)
    with pytest.raises(KeyError), refusing_draws(X, KeyError):
        torch.rand(1)
    assert not after.moved()
    with refusing_draws(X, KeyError):
        pass


def test_a_tape_of_a_path_that_draws_nothing_is_none() -> None:
    def walk(tape: Any) -> int:
        for _ in range(3):
            tape.note()
        return 1

    assert taped(X, walk) == (1, ())

    def drawing(tape: Any) -> Tensor:
        for _ in range(3):
            tape.note()
            last = torch.rand(2)
        return last

    last, tape = taped(X, drawing)
    assert isinstance(tape, Tape)
    tape.before(1).restore()
    assert torch.equal(torch.rand(2), last)
