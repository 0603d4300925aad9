"""Chains of imperative steps against the functional estimators, which have oracles of their own."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import metafunc as mf
from metafunc.imperative import Chain

STEPS, MOMENTUM, PROX = 4, 0.7, 0.3
Params = dict[str, Tensor]


def loss(params: Params, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return F.softplus(-y * (torch.tanh(x @ params["w"]) @ params["v"])).mean()


@pytest.fixture
def theta() -> Params:
    return {"w": torch.randn(4, 3, requires_grad=True), "v": torch.randn(3, requires_grad=True)}


def data(size: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(size, 4, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    return x, torch.sign(x[:, 0] * x[:, 1])


SUPPORT, QUERY = data(20), data(15)


def descent(lr: Any, momentum: float = 0.0) -> Callable[..., Any]:
    def update(grads: list[Tensor | None], params: list[Tensor], state: Any) -> tuple[list[Tensor], Any]:
        state = [torch.zeros_like(x) for x in params] if state is None else state
        state = [v if g is None else momentum * v + g for v, g in zip(state, grads, strict=True)]
        return [x - lr * v for x, v in zip(params, state, strict=True)], state

    return update


def follow(chain: Chain, theta: Params, lr: Any, momentum: float, prox: float, steps: int = STEPS) -> Params:
    for _ in range(steps):
        now = dict(zip(theta, chain.params, strict=True))
        pull = sum(((now[name] - theta[name]) ** 2).sum() for name in theta)
        chain.step(loss(now, SUPPORT) + 0.5 * prox * pull, descent(lr, momentum))
    return dict(zip(theta, chain.params, strict=True))


def same(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    for x, y in zip(found, expected, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            assert (x - y).norm() <= tolerance * y.norm()


ESTIMATORS = [
    mf.Explicit(),
    *(mf.Truncated(depth) for depth in range(1, STEPS + 1)),
    *(mf.Binomial(order, window) for window in (1, 3, STEPS) for order in range(1, window + 1)),
    mf.Binomial(2),
    mf.Binomial(2, window=3, rescale=True),
]


@pytest.mark.parametrize("momentum", [0.0, MOMENTUM])
@pytest.mark.parametrize("prox", [0.0, PROX])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_a_chain_gives_the_functional_gradient_also_to_a_learned_rate(
    estimator: Any, prox: float, momentum: float, theta: Params
) -> None:
    lr = torch.tensor(0.4, requires_grad=True)
    wanted = [*theta.values(), lr]
    phi = follow(Chain(list(theta.values()), estimator), theta, lr, momentum, prox)
    inner = mf.gradient_descent(loss, lr=lr, steps=STEPS, momentum=momentum, prox=prox)
    functional = estimator(inner)(theta, SUPPORT)
    same(phi.values(), functional.values(), 1e-14)
    expected = torch.autograd.grad(loss(functional, QUERY), wanted)
    same(torch.autograd.grad(loss(phi, QUERY), wanted), expected)


@pytest.mark.parametrize("estimator", [mf.FirstOrder(), mf.Truncated(0), mf.Binomial(0)], ids=repr)
def test_first_order_is_the_identity_in_the_initial_parameters(estimator: Any, theta: Params) -> None:
    lr = torch.tensor(0.4, requires_grad=True)
    phi = follow(Chain(list(theta.values()), estimator), theta, lr, MOMENTUM, PROX)
    inner = mf.gradient_descent(loss, lr=0.4, steps=STEPS, momentum=MOMENTUM, prox=PROX)
    functional = estimator(inner)(theta, SUPPORT)
    expected = torch.autograd.grad(loss(functional, QUERY), list(theta.values()))
    outer = loss(phi, QUERY)
    same(torch.autograd.grad(outer, list(theta.values()), retain_graph=True), expected)
    if estimator != mf.FirstOrder():
        with pytest.raises(mf.ZeroGradientError, match=re.escape(f"{estimator!r} in an imperative loop")):
            torch.autograd.grad(outer, [lr], allow_unused=True)
        return
    # With momentum the velocity is as linear in the rate as the moves are: (phi - theta) / lr is the derivative.
    points = {name: x.detach().requires_grad_() for name, x in phi.items()}
    v = torch.autograd.grad(loss(points, QUERY), list(points.values()))
    slope = sum((b * (x - y)).sum() for b, x, y in zip(v, phi.values(), theta.values(), strict=True)) / 0.4
    same(torch.autograd.grad(outer, [lr]), [slope])


@pytest.mark.parametrize(
    "solver", [mf.Direct(), mf.CG(max_steps=40, rtol=1e-14), mf.GMRES(max_steps=20, rtol=1e-13)], ids=repr
)
def test_implicit_at_the_solution_of_a_proximal_problem(solver: Any, theta: Params) -> None:
    options: Any = {"lr": 0.8, "steps": 400, "prox": PROX}
    chain = Chain(list(theta.values()), mf.Implicit(solver))
    phi = follow(chain, theta, 0.8, 0.0, PROX, steps=400)
    found = torch.autograd.grad(loss(phi, QUERY), list(theta.values()))
    functional = mf.Implicit(mf.Direct())(mf.gradient_descent(loss, **options))(theta, SUPPORT)
    same(found, torch.autograd.grad(loss(functional, QUERY), list(theta.values())), 1e-8)
    assert chain.stats["linear_residual"] < 1e-8


def test_implicit_takes_the_gradient_map_where_it_was_taken(theta: Params) -> None:
    # Far from a solution this is -(H + prox I)^-1 v pulled through the mixed derivative, with H at the last point.
    chain = Chain(list(theta.values()), mf.Implicit(mf.Direct()))
    follow(chain, theta, 0.4, 0.0, PROX, steps=2)
    last = [x.detach() for x in chain.params]
    phi = follow(chain, theta, 0.4, 0.0, PROX, steps=1)
    outer = loss(phi, QUERY)
    found = torch.cat([g.flatten() for g in torch.autograd.grad(outer, list(theta.values()))])
    hessian: Any = torch.autograd.functional.hessian(
        lambda w, v: loss({"w": w, "v": v}, SUPPORT), tuple(last)
    )
    H = torch.cat(
        [torch.cat([hessian[i][j].reshape(last[i].numel(), -1) for j in (0, 1)], 1) for i in (0, 1)]
    )
    points = {name: x.detach().requires_grad_() for name, x in phi.items()}
    v = torch.cat([g.flatten() for g in torch.autograd.grad(loss(points, QUERY), list(points.values()))])
    same([found], [PROX * torch.linalg.solve(H + PROX * torch.eye(len(v)), v)])


@pytest.mark.parametrize("estimator", [mf.Truncated(1), mf.Binomial(1), mf.Implicit(mf.Direct())], ids=repr)
def test_a_learned_weight_in_the_loss_gets_a_gradient(estimator: Any, theta: Params) -> None:
    weight = torch.tensor(0.3, requires_grad=True)
    chain = Chain([x.detach().clone().requires_grad_() for x in theta.values()], estimator)
    for _ in range(3):
        w, v = chain.params
        chain.step(
            loss({"w": w, "v": v}, SUPPORT) + torch.exp(weight) * ((w**2).sum() + (v**2).sum()), descent(0.1)
        )
    loss(dict(zip(theta, chain.params, strict=True)), QUERY).backward()
    assert weight.grad is not None and weight.grad.abs() > 1e-4


@pytest.mark.parametrize("estimator", [mf.Truncated(STEPS), mf.Binomial(STEPS)], ids=repr)
def test_outer_losses_after_every_step(estimator: Any, theta: Params) -> None:
    def total(estimator: Any) -> list[Tensor]:
        chain, outer = Chain(list(theta.values()), estimator), torch.zeros(())
        for k in range(STEPS):
            phi = follow(chain, theta, 0.4, MOMENTUM, PROX, steps=1)
            outer = outer + (k + 1) * loss(phi, QUERY)
        return list(torch.autograd.grad(outer, list(theta.values())))

    same(total(estimator), total(mf.Explicit()))


@pytest.mark.parametrize("estimator", [mf.Truncated(STEPS), mf.Binomial(STEPS)], ids=repr)
def test_features_computed_once_and_used_in_every_loss(estimator: Any, theta: Params) -> None:
    encoder = torch.randn(4, 4, requires_grad=True)

    def run(estimator: Any) -> list[Tensor]:
        features, wanted = torch.tanh(SUPPORT[0] @ encoder), [encoder, *theta.values()]
        for x in wanted:
            x.grad = None
        chain = Chain(list(theta.values()), estimator)
        for _ in range(STEPS):
            now = dict(zip(theta, chain.params, strict=True))
            chain.step(loss(now, (features, SUPPORT[1])), descent(0.4))
        loss(dict(zip(theta, chain.params, strict=True)), (features.flip(0), SUPPORT[1])).backward()
        return [x.grad for x in wanted if x.grad is not None]

    same(run(estimator), run(mf.Explicit()))


@pytest.mark.parametrize("estimator", [mf.Truncated(STEPS), mf.Binomial(STEPS)], ids=repr)
def test_a_chain_inside_a_chain(estimator: Any, theta: Params) -> None:
    def run(estimator: Any) -> Any:
        outer_chain = Chain(list(theta.values()), estimator)
        for _ in range(2):
            now = dict(zip(theta, outer_chain.params, strict=True))
            adapted = follow(Chain(list(now.values()), estimator), now, 0.4, MOMENTUM, PROX, steps=2)
            outer_chain.step(loss(adapted, QUERY), descent(0.2))
        return torch.autograd.grad(
            loss(dict(zip(theta, outer_chain.params, strict=True)), QUERY), list(theta.values())
        )

    with pytest.raises(mf.SecondDerivativeError, match="in an imperative loop"):
        run(estimator)
    assert all(torch.isfinite(g).all() for g in run(mf.Explicit()))


def test_a_frozen_parameter_and_one_without_a_part_in_the_loss_stay(theta: Params) -> None:
    first = [*theta.values(), torch.ones(2), torch.ones(2, requires_grad=True)]

    def run(estimator: Any) -> tuple[Any, list[Tensor]]:
        chain = Chain(first, estimator)
        for _ in range(2):
            chain.step(loss(dict(zip(theta, chain.params, strict=False)), SUPPORT), descent(0.4, MOMENTUM))
        outer = loss(dict(zip(theta, chain.params, strict=False)), QUERY) + chain.params[3].sum()
        assert not chain.params[2].requires_grad
        return torch.autograd.grad(outer, [first[0], first[1], first[3]]), chain.params

    grads, params = run(mf.Truncated(2))
    expected = run(mf.Explicit())
    same(grads, expected[0])
    same(params, expected[1])


def test_a_parameter_without_a_part_in_the_loss_passes_an_implicit_gradient_on(theta: Params) -> None:
    idle = torch.ones(2, requires_grad=True)
    chain = Chain([*theta.values(), idle], mf.Implicit(mf.Direct()))
    pull = sum(((x - y) ** 2).sum() for x, y in zip(chain.params, theta.values(), strict=False))
    chain.step(loss(dict(zip(theta, chain.params, strict=False)), SUPPORT) + pull, descent(0.1))
    (chain.params[2] ** 2).sum().backward()
    assert idle.grad is not None
    same([idle.grad], [2 * torch.ones(2)])


@pytest.mark.parametrize("estimator", [mf.Truncated(2), mf.FirstOrder(), mf.Explicit()], ids=repr)
def test_a_state_to_start_with_is_something_beside_the_loop(estimator: Any, theta: Params) -> None:
    velocity = [torch.full_like(x, 0.2, requires_grad=True) for x in theta.values()]
    chain = Chain(list(theta.values()), estimator, state=velocity)
    for _ in range(2):
        chain.step(loss(dict(zip(theta, chain.params, strict=True)), SUPPORT), descent(0.4, MOMENTUM))
    outer = loss(dict(zip(theta, chain.params, strict=True)), QUERY)
    found = torch.autograd.grad(outer, velocity)
    if estimator == mf.FirstOrder():
        points = [x.detach().requires_grad_() for x in chain.params]
        v = torch.autograd.grad(loss(dict(zip(theta, points, strict=True)), QUERY), points)
        same(found, [-0.4 * (MOMENTUM + MOMENTUM**2) * b for b in v])
    else:
        plain = Chain(list(theta.values()), state=velocity)
        for _ in range(2):
            plain.step(loss(dict(zip(theta, plain.params, strict=True)), SUPPORT), descent(0.4, MOMENTUM))
        same(found, torch.autograd.grad(loss(dict(zip(theta, plain.params, strict=True)), QUERY), velocity))


def test_the_graph_may_be_walked_twice(theta: Params) -> None:
    outer = loss(follow(Chain(list(theta.values()), mf.Binomial(2)), theta, 0.4, 0.0, 0.0), QUERY)
    once = torch.autograd.grad(outer, list(theta.values()), retain_graph=True)
    same(torch.autograd.grad(outer, list(theta.values())), once, 0.0)


def test_plain_autograd_has_second_derivatives(theta: Params) -> None:
    def gradient(phi: Params) -> Tensor:
        grads = torch.autograd.grad(loss(phi, QUERY), list(theta.values()), create_graph=True)
        return sum(((g**2).sum() for g in grads), torch.zeros(()))

    phi = follow(Chain(list(theta.values())), theta, 0.4, 0.0, 0.0)
    inner = mf.gradient_descent(loss, lr=0.4, steps=STEPS)
    functional = mf.Explicit()(inner)(theta, SUPPORT)
    found = torch.autograd.grad(gradient(phi), list(theta.values()))
    same(found, torch.autograd.grad(gradient(functional), list(theta.values())))


class Token:
    """Something that can be watched."""


class Probe(torch.autograd.Function):
    """The identity; its node in the graph holds a token for as long as it lives."""

    alive: ClassVar[weakref.WeakSet[Token]] = weakref.WeakSet()

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.token = Token()
        Probe.alive.add(ctx.token)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        return cotangents[0]


@pytest.fixture
def graphs() -> Iterator[Callable[[], int]]:
    gc.collect()
    Probe.alive.clear()
    yield lambda: len(Probe.alive)
    gc.collect()


def tensors() -> int:
    gc.collect()
    return sum(issubclass(type(x), Tensor) for x in gc.get_objects())


LIMITS = {
    mf.Explicit(): 60,
    mf.FirstOrder(): 0,
    mf.Truncated(3): 3,
    mf.Binomial(2, window=4): 4,
    mf.Implicit(mf.CG()): 1,
}


@pytest.mark.parametrize(("estimator", "limit"), LIMITS.items(), ids=repr)
def test_so_many_graphs_are_alive_after_60_steps(estimator: Any, limit: int, graphs: Any) -> None:
    first = torch.ones(3, requires_grad=True)
    chain, counts = Chain([first], estimator), []
    for k in range(60):
        (w,) = chain.params
        value = torch.tanh(Probe.apply(w * w)).sum() + ((w - first) ** 2).sum()
        chain.step(value, descent(0.01, MOMENTUM))
        del w, value
        if k in (20, 59):
            counts.append(tensors())
    assert graphs() == limit
    if limit < 60:
        assert counts[0] == counts[1]
    chain.params[0].sum().backward()
    assert first.grad is not None and torch.isfinite(first.grad).all()
    gc.disable()
    del chain
    left = graphs()
    gc.enable()
    assert left == 0, "the graph and the chain hold each other"


BIASED = [mf.FirstOrder(), mf.Truncated(2), mf.Binomial(1), mf.Implicit(mf.Direct())]


@pytest.mark.parametrize("estimator", BIASED, ids=repr)
def test_a_second_derivative_is_refused(estimator: Any, theta: Params) -> None:
    outer = loss(follow(Chain(list(theta.values()), estimator), theta, 0.4, 0.0, PROX), QUERY)
    grads = torch.autograd.grad(outer, list(theta.values()), create_graph=True)
    with pytest.raises(mf.SecondDerivativeError, match=re.escape(f"{estimator!r} in an imperative loop")):
        (grads[0] ** 2).sum().backward()


def test_implicit_without_a_dependence_is_refused(theta: Params) -> None:
    chain = Chain([x.detach().requires_grad_() for x in theta.values()], mf.Implicit())
    for _ in range(2):
        chain.step(loss(dict(zip(theta, chain.params, strict=True)), SUPPORT), descent(0.4))
    last = dict(zip(theta, chain.params, strict=True))
    with pytest.raises(mf.ZeroGradientError, match="Add a proximal term to the initial parameters"):
        loss(last, QUERY).backward()


@pytest.mark.parametrize(
    "estimator",
    [
        mf.Reptile(),
        mf.FiniteDifference(),
        mf.Explicit(checkpoint=True),
        mf.Truncated(1, curvature=mf.CentralDifference()),
        mf.Implicit(curvature=mf.GaussNewton()),
        "explicit",
    ],
    ids=repr,
)
def test_other_estimators_are_refused(estimator: Any, theta: Params) -> None:
    with pytest.raises(TypeError, match=re.escape("estimator: expected Explicit(), FirstOrder(), Trunc")):
        Chain(list(theta.values()), estimator)


@pytest.mark.parametrize("estimator", [mf.Explicit(), mf.FirstOrder(), mf.Truncated(1)], ids=repr)
def test_a_loss_of_something_else_is_refused(estimator: Any, theta: Params) -> None:
    for other in (torch.ones(()), torch.ones((), requires_grad=True) * 2):
        with pytest.raises(ValueError, match="loss: expected a scalar computed from the fast parameters"):
            Chain(list(theta.values()), estimator).step(other, descent(0.1))


@pytest.mark.parametrize("estimator", [mf.Explicit(), mf.FirstOrder(), mf.Implicit()], ids=repr)
def test_parameters_that_are_all_frozen_are_refused(estimator: Any) -> None:
    chain = Chain([torch.ones(3)], estimator)
    with pytest.raises(ValueError, match="or parameters that require no gradient"):
        chain.step(chain.params[0].sum(), descent(0.1))


def test_a_change_in_place_is_refused(theta: Params) -> None:
    chain = Chain(list(theta.values()), mf.FirstOrder())
    value = loss(dict(zip(theta, chain.params, strict=True)), SUPPORT)
    with torch.no_grad():
        chain.params[0].mul_(2.0)
    with pytest.raises(RuntimeError, match="got ones modified in place"):
        chain.step(value, descent(0.1))


def test_a_loss_of_earlier_parameters_is_refused_unless_autograd_is_the_rule(theta: Params) -> None:
    for estimator in (mf.Explicit(), mf.Truncated(2)):
        chain = Chain(list(theta.values()), estimator)
        follow(chain, theta, 0.4, 0.0, 0.0, steps=1)
        before = chain.params[0]
        follow(chain, theta, 0.4, 0.0, 0.0, steps=1)
        value = (chain.params[0] * before).sum()
        if estimator == mf.Explicit():
            chain.step(value + chain.params[1].sum(), descent(0.1))
        else:
            with pytest.raises(ValueError, match=r"after some other step.* Use Explicit\(\)"):
                chain.step(value, descent(0.1))


def test_a_derivative_of_what_was_dropped_is_refused(theta: Params) -> None:
    chain = Chain(list(theta.values()), mf.Truncated(1))
    early = loss(follow(chain, theta, 0.4, 0.0, 0.0, steps=1), QUERY)
    follow(chain, theta, 0.4, 0.0, 0.0, steps=1)
    with pytest.raises(RuntimeError, match="whose graphs are gone"):
        early.backward()
