"""Two loops at once whose losses depend on the fast parameters of both, as those of a generator and a critic do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import metafunc as mf
from tests.interop.loops import LIBRARIES, opened
from tests.tasks import close

pytest.importorskip("higher")
pytest.importorskip("torchopt")

STEPS = 3
Model = Callable[[Tensor], Tensor]
Step = Callable[[Tensor], Any]


def nets() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))


def noise() -> Tensor:
    return torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def fools(make: Model, judge: Model) -> Tensor:
    return -torch.tanh(judge(make(noise()))).mean() + (make(noise()) ** 2).mean()


def detects(make: Model, judge: Model) -> Tensor:
    return torch.tanh(judge(make(noise()))).mean() + ((judge(noise()) - 1) ** 2).mean()


def at_once(make: Model, judge: Model, step: Step, step_judge: Step) -> None:
    for _ in range(STEPS):
        first, second = fools(make, judge), detects(make, judge)
        step(first)
        step_judge(second)


def in_turn(make: Model, judge: Model, step: Step, step_judge: Step) -> None:
    for _ in range(STEPS):
        step_judge(detects(make, judge))
        step(fools(make, judge))


def by_both(make: Model, judge: Model) -> Tensor:
    return (judge(make(noise() + 0.3)) ** 2).mean()


def by_the_judge(make: Model, judge: Model) -> Tensor:
    return (judge(noise()) ** 2).mean()


def run(library: str, estimators: tuple[Any, Any], order: Any, outer: Any) -> tuple[Tensor, Tensor]:
    pair = nets()
    with (
        opened(library, pair[0], estimators[0]) as (make, step),
        opened(library, pair[1], estimators[1]) as (judge, step_judge),
    ):
        order(make, judge, step, step_judge)
        value = outer(make, judge)
        value.backward()
    found = [torch.zeros_like(p) if p.grad is None else p.grad for net in pair for p in net.parameters()]
    return value.detach(), torch.cat([g.flatten() for g in found])


def by_hand(order: Any, outer: Any) -> tuple[Tensor, Tensor]:
    pair = nets()
    start = [{n: p.detach().requires_grad_() for n, p in net.named_parameters()} for net in pair]
    now = list(start)

    def model(i: int) -> Model:
        return lambda x: functional_call(pair[i], now[i], (x,))

    def step(i: int) -> Step:
        def take(loss: Tensor) -> None:
            slopes = torch.autograd.grad(loss, list(now[i].values()), create_graph=True)
            now[i] = {n: p - 0.1 * g for (n, p), g in zip(now[i].items(), slopes, strict=True)}

        return take

    order(model(0), model(1), step(0), step(1))
    value = outer(model(0), model(1))
    grads = torch.autograd.grad(value, [x for params in start for x in params.values()])
    return value.detach(), torch.cat([g.flatten() for g in grads])


WHOLE = [mf.Explicit(), mf.Truncated(STEPS), mf.Binomial(STEPS)]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("outer", [by_both, by_the_judge], ids=lambda f: f.__name__)
@pytest.mark.parametrize("second", WHOLE, ids=repr)
@pytest.mark.parametrize("first", WHOLE, ids=repr)
def test_steps_at_once_are_plain_autograd_at_full_depth(
    first: Any, second: Any, outer: Any, library: str
) -> None:
    value, expected = by_hand(at_once, outer)
    found, gradient = run(library, (first, second), at_once, outer)
    close(found, value, 1e-13)
    close(gradient, expected, 1e-11)


@pytest.mark.parametrize("library", LIBRARIES)
def test_steps_in_turn_are_plain_autograd_where_it_is_the_rule(library: str) -> None:
    value, expected = by_hand(in_turn, by_both)
    found, gradient = run(library, (mf.Explicit(), mf.Explicit()), in_turn, by_both)
    close(found, value, 1e-13)
    close(gradient, expected, 1e-11)


BIASED = [mf.Truncated(STEPS), mf.Binomial(STEPS), mf.Truncated(1), mf.FirstOrder(), mf.Implicit(mf.CG(3))]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("estimator", BIASED, ids=repr)
def test_steps_in_turn_are_refused_elsewhere(estimator: Any, library: str) -> None:
    # The second loss depends on its own parameters through the other loop's step too, by an estimate alone.
    for pair in ((estimator, estimator), (estimator, mf.Explicit()), (mf.Explicit(), estimator)):
        with pytest.raises(
            (mf.SecondDerivativeError, ValueError), match=r"another loop|in an imperative loop"
        ):
            run(library, pair, in_turn, by_both)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("estimator", [mf.Truncated(1), mf.Binomial(1, window=2)], ids=repr)
def test_a_path_that_is_not_kept_is_refused(estimator: Any, library: str) -> None:
    with pytest.raises(RuntimeError, match="whose graphs are gone"):
        run(library, (estimator, estimator), at_once, by_both)


@pytest.mark.parametrize("library", LIBRARIES)
def test_first_order_leaves_out_the_other_loop(library: str) -> None:
    value, exact = by_hand(at_once, by_both)
    found, gradient = run(library, (mf.FirstOrder(), mf.FirstOrder()), at_once, by_both)
    close(found, value, 1e-13)  # the steps are the same
    assert (gradient - exact).norm() > 1e-3 * exact.norm()
    with pytest.raises(mf.ZeroGradientError):  # the outer loss depends on the other loop by the steps alone
        run(library, (mf.FirstOrder(), mf.FirstOrder()), at_once, by_the_judge)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("estimator", [mf.Truncated(STEPS), mf.Binomial(STEPS), mf.FirstOrder()], ids=repr)
def test_detached_fast_parameters_couple_nothing(estimator: Any, library: str) -> None:
    def apart(make: Model, judge: Model, step: Step, step_judge: Step) -> None:
        for _ in range(STEPS):
            step_judge(detects(lambda x: make(x).detach(), judge))
            step((make(noise()) ** 2).mean() + make(noise()).mean())

    value, expected = by_hand(apart, by_both)
    found, gradient = run(library, (estimator, estimator), apart, by_both)
    close(found, value, 1e-13)
    if estimator != mf.FirstOrder():
        close(gradient, expected, 1e-11)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("estimator", WHOLE, ids=repr)
def test_a_loop_that_follows_another(estimator: Any, library: str) -> None:
    def after(make: Model, judge: Model, step: Step, step_judge: Step) -> None:
        for _ in range(STEPS):
            step((make(noise()) ** 2).mean() + make(noise()).mean())
        for _ in range(STEPS):
            step_judge(detects(make, judge))

    value, expected = by_hand(after, by_both)
    found, gradient = run(library, (estimator, estimator), after, by_both)
    close(found, value, 1e-13)
    close(gradient, expected, 1e-11)
