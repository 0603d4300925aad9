"""Other libraries' optimizers: the same path as by themselves, and its derivative against plain autograd."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, vmap

import metafunc as mf
from metafunc import tree
from tests.dense import logistic
from tests.tasks import close, logistic_loss, tensors

torchopt = pytest.importorskip("torchopt")

OPTIMIZERS = {
    "sgd": lambda: torchopt.sgd(0.1),
    "sgd with Nesterov momentum": lambda: torchopt.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: torchopt.adam(0.05),
    "adamw": lambda: torchopt.adamw(0.05, weight_decay=0.1),
    "rmsprop": lambda: torchopt.rmsprop(0.05),
    "adagrad": lambda: torchopt.adagrad(0.05),
    "adadelta": lambda: torchopt.adadelta(0.5),
    "adamax": lambda: torchopt.adamax(0.05),
    "radam": lambda: torchopt.radam(0.05),
    "sgd with dampening": lambda: torchopt.sgd(0.1, momentum=0.9, dampening=0.5),
    "a schedule": lambda: torchopt.adam(torchopt.schedule.linear_schedule(0.1, 0.01, 4, 1)),
    "a chain": lambda: torchopt.chain(torchopt.transform.scale_by_adam(), torchopt.transform.scale(-0.1)),
}
STEPS = 4


def imperative(optimizer: Any, theta: Tensor, support: Any) -> Tensor:
    """TorchOpt's own loop with its whole graph, by plain autograd."""
    phi = {"w": theta}
    state = optimizer.init(phi)
    for _ in range(STEPS):
        (slope,) = torch.autograd.grad(logistic_loss(phi["w"], support), phi["w"], create_graph=True)
        updates, state = optimizer.update({"w": slope}, state, params=phi, inplace=False)
        phi = torchopt.apply_updates(phi, updates, inplace=False)
    return phi["w"]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    "estimator",
    [mf.Explicit(), mf.Explicit(checkpoint=True), mf.Truncated(STEPS), mf.Binomial(STEPS)],
    ids=repr,
)
def test_path_and_derivative_are_those_of_torchopt(estimator: mf.Estimator, name: str) -> None:
    theta, support, query = tensors(logistic())
    adapt = estimator(
        mf.optimizer_loop(lambda p, b: logistic_loss(p["w"], b), OPTIMIZERS[name](), steps=STEPS)
    )
    leaf = theta.clone().requires_grad_()
    phi = imperative(OPTIMIZERS[name](), leaf, support)
    close(adapt({"w": theta}, support)["w"], phi.detach(), 1e-12)
    (expected,) = torch.autograd.grad(logistic_loss(phi, query), leaf)
    found = grad(lambda t: logistic_loss(adapt(t, support)["w"], query))({"w": theta})["w"]
    close(found, expected, 1e-11)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_batches_and_forward_mode(name: str) -> None:
    parts = [tensors(logistic(seed)) for seed in range(3)]
    theta = parts[0][0]
    support = tuple(torch.stack(x) for x in zip(*(p[1] for p in parts), strict=True))
    adapt = mf.Explicit()(mf.optimizer_loop(logistic_loss, OPTIMIZERS[name](), steps=STEPS))
    together = vmap(jacrev(adapt), in_dims=(None, 0))(theta, support)
    for i in range(3):
        close(together[i], jacrev(adapt)(theta, (support[0][i], support[1][i])), 1e-12)
    close(vmap(jacfwd(adapt), in_dims=(None, 0))(theta, support), together, 1e-11)
    summed = grad(lambda t: vmap(adapt, in_dims=(None, 0))(t, support).sum())(theta)
    close(summed, together.sum((0, 1)), 1e-11)


@pytest.mark.parametrize("name", ["adam", "rmsprop", "sgd with Nesterov momentum"])
def test_implicit_and_finite_differences_at_the_solution(name: str) -> None:
    task = logistic(prox=0.8, steps=300)
    theta, support, query = tensors(task)
    inner = mf.optimizer_loop(logistic_loss, OPTIMIZERS[name](), steps=450, prox=0.8)
    implicit = mf.Implicit(mf.Direct())(inner)
    found = mf.meta_grad(logistic_loss, implicit)(theta, support, query)
    if name == "rmsprop":  # with a fixed lr it circles around the solution, and the stats say so
        assert found.stats["stationarity"] > 1e-3
        return
    close(found.grad, task.implicit(), 1e-7)
    close(
        grad(lambda t: logistic_loss(mf.FiniteDifference()(inner)(t, support), query))(theta),
        task.implicit(),
        1e-4,
    )


def test_too_few_perturbed_steps_of_adam_are_found_out() -> None:
    """Adam starts with steps of ``lr`` however small the perturbation; four of them do not come back."""
    theta, support, query = tensors(logistic(prox=0.8))
    adapt = mf.FiniteDifference(steps=4)(
        mf.optimizer_loop(logistic_loss, torchopt.adam(0.05), steps=900, prox=0.8)
    )
    result = mf.meta_grad(logistic_loss, adapt)(theta, support, query)
    assert result.stats["linear_residual"] > 1
    with pytest.raises(mf.CheckError, match="the perturbed inner problems are not solved"):
        mf.check(result)


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "adagrad"])
def test_a_zero_gradient_gives_no_nan(name: str) -> None:
    """TorchOpt's own derivative is NaN at a coordinate whose gradient is exactly zero."""

    def dead(phi: Tensor, batch: Tensor) -> Tensor:
        return ((phi[:3] - batch) ** 2).sum() + 0.0 * phi[3] ** 2

    theta, batch = torch.randn(4), torch.randn(3)
    adapt = mf.Explicit()(mf.optimizer_loop(dead, OPTIMIZERS[name](), steps=STEPS))
    jacobian = jacrev(adapt)(theta, batch)
    assert torch.isfinite(jacobian).all()
    kept = 1 - 0.05 * 0.1 if name == "adamw" else 1.0
    close(jacobian[3], torch.tensor([0.0, 0.0, 0.0, kept**STEPS]), 1e-12)

    leaf = theta.clone().requires_grad_()
    state = (optimizer := OPTIMIZERS[name]()).init(leaf)
    slope = torch.autograd.grad(dead(leaf, batch), leaf, create_graph=True)[0]
    updates, _ = optimizer.update(slope, state, params=leaf, inplace=False)
    if name != "adagrad":  # whose accumulator starts above zero
        assert torch.autograd.grad(updates.sum(), leaf)[0].isnan().any()


class Functional(NamedTuple):
    """A functional optimizer of one's own."""

    init: Any
    update: Any


def custom(update: Any) -> Functional:
    return Functional(lambda params: (), lambda g, state, params=None, inplace=True: (update(g), state))


@pytest.mark.parametrize(
    ("optimizer", "text"),
    [
        (
            custom(lambda g: tree.map(lambda x: -0.1 * x.detach(), g)),
            "it detaches the gradient, or replaces it",
        ),
        (
            custom(lambda g: tree.map(lambda x: -0.1 * x / float(x.norm()), g)),
            "turns a tensor into a Python number",
        ),
        (
            torchopt.chain(torchopt.clip.clip_grad_norm(1.0), torchopt.sgd(0.1)),
            "turns a tensor into a Python number",
        ),
        (torchopt.adam(0.1, use_accelerated_op=True), "it uses an operator that torch.func refuses"),
    ],
    ids=["detached", "number", "clip", "accelerated"],
)
def test_updates_without_a_derivative(optimizer: Any, text: str) -> None:
    theta, support, _ = tensors(logistic())
    adapt = mf.Explicit()(mf.optimizer_loop(logistic_loss, optimizer, steps=2))
    with pytest.raises(TypeError, match=text):
        jacrev(adapt)(theta, support)


def test_implicit_needs_no_derivative_of_the_update() -> None:
    task = logistic(prox=0.8, steps=300)
    theta, support, query = tensors(task)
    detached = custom(lambda g: tree.map(lambda x: -0.3 * x.detach(), g))
    adapt = mf.Implicit(mf.Direct())(mf.optimizer_loop(logistic_loss, detached, steps=150, prox=0.8))
    close(mf.meta_grad(logistic_loss, adapt)(theta, support, query).grad, task.implicit(), 1e-10)


class Averaging(NamedTuple):
    """Momentum by hand, in whatever state: ``begin()`` makes it, ``after(state, g)`` gives direction and next state."""

    begin: Any
    after: Any

    def init(self, params: Any) -> Any:
        return self.begin()

    def update(self, grads: Any, state: Any, *, params: Any = None, inplace: bool = True) -> Any:
        direction, state = self.after(state, grads)
        return tree.map(lambda x: -0.1 * x, direction), state


def _late(state: Any, g: Tensor) -> Any:
    m = g if state is None else 0.5 * state + g
    return m, m


def _growing(state: Any, g: Tensor) -> Any:
    past = [*state, g]
    return sum(0.5 ** (len(past) - 1 - i) * x for i, x in enumerate(past)), past


def _nested(state: Any, g: Tensor) -> Any:
    m = g if state["m"] is None else 0.5 * state["m"] + g
    return m, {
        "m": m,
        "more": ({"count": state["more"][0]["count"] + 1, "kind": "sum"}, 2.0 * state["more"][1]),
    }


class Remembering:
    """Momentum that is not damped in the first step, which it knows from an attribute."""

    def __init__(self) -> None:
        self.calls = {"update": 0}

    def init(self, params: Any) -> Any:
        return torch.zeros_like(params)

    def update(self, grads: Any, state: Any, *, params: Any = None, inplace: bool = True) -> Any:
        self.calls["update"] += 1
        m = grads if self.calls["update"] == 1 else 0.5 * state + grads
        return -0.1 * m, m


MOMENTA = {
    "none at first": lambda: Averaging(lambda: None, _late),
    "a list that grows": lambda: Averaging(list, _growing),
    "counters, words and numbers in a nest": lambda: Averaging(
        lambda: {"m": None, "more": ({"count": 0, "kind": "sum"}, 1.0)}, _nested
    ),
    "an attribute": Remembering,
}


@pytest.mark.parametrize("name", MOMENTA)
@pytest.mark.parametrize(
    "estimator", [mf.Explicit(), mf.Explicit(checkpoint=2), mf.Truncated(STEPS), mf.Binomial(STEPS)], ids=repr
)
def test_a_state_that_is_not_all_tensors(estimator: mf.Estimator, name: str) -> None:
    """All of these are gradient descent with momentum."""
    theta, support, _ = tensors(logistic())
    reference = mf.Explicit()(mf.gradient_descent(logistic_loss, lr=0.1, momentum=0.5, steps=STEPS))
    optimizer = MOMENTA[name]()
    adapt = estimator(mf.optimizer_loop(logistic_loss, optimizer, steps=STEPS))
    for _ in range(2):  # nothing is left over from the first time
        close(adapt(theta, support), reference(theta, support), 1e-14)
        close(jacrev(adapt)(theta, support), jacrev(reference)(theta, support), 1e-13)
    batch = tuple(torch.stack((x, 2 * x)) for x in support)
    mapped = vmap(jacrev(adapt), in_dims=(None, 0))(theta, batch)
    close(mapped, vmap(jacrev(reference), in_dims=(None, 0))(theta, batch), 1e-13)
    if isinstance(optimizer, Remembering):
        assert optimizer.calls == {"update": 0}


def test_the_optimizer_stays_as_it_was() -> None:
    theta, support, _ = tensors(logistic())
    used, fresh = (torchopt.sgd(0.1, momentum=0.9, dampening=0.5) for _ in range(2))
    mf.Explicit()(mf.optimizer_loop(logistic_loss, used, steps=3))(theta, support)
    leaf = theta.clone().requires_grad_()
    close(imperative(used, leaf, support), imperative(fresh, leaf, support), 0.0)


def test_a_perturbed_problem_has_steps_of_its_own() -> None:
    """More of them than the path, whose states are known: as by the solver with that momentum."""
    task = logistic(prox=0.8, steps=10)
    theta, support, query = tensors(task)
    estimator = mf.FiniteDifference(steps=25)
    own = estimator(mf.optimizer_loop(logistic_loss, MOMENTA["none at first"](), steps=10, prox=0.8))
    same = estimator(mf.gradient_descent(logistic_loss, lr=0.1, momentum=0.5, steps=10, prox=0.8))
    slopes = [grad(lambda t, a=a: logistic_loss(a(t, support), query))(theta) for a in (own, same)]
    close(*slopes, 1e-9)


@pytest.mark.exhaustive
def test_a_perturbed_problem_with_more_steps_than_the_path() -> None:
    task = logistic(prox=0.8, steps=300)
    theta, support, query = tensors(task)
    inner = mf.optimizer_loop(logistic_loss, MOMENTA["none at first"](), steps=300, prox=0.8)
    adapt = mf.FiniteDifference(steps=700)(inner)
    close(grad(lambda t: logistic_loss(adapt(t, support), query))(theta), task.implicit(), 1e-4)


def test_counters_in_low_precision() -> None:
    """TorchOpt's adam counts in int64; bfloat16 counts to 256."""

    def after(count: Tensor, g: Tensor) -> Any:
        return torch.where(count >= 299, 10.0, 0.0).to(g.dtype) * torch.ones_like(g), count + 1

    optimizer = Averaging(lambda: torch.tensor(0), after)
    theta = torch.ones(2, dtype=torch.bfloat16)
    phi = mf.optimizer_loop(lambda p: (p**2).sum(), optimizer, steps=300)(theta)
    assert torch.equal(phi, theta - 1)  # only the last step moved


class Kept:
    def __init__(self, m: Tensor) -> None:
        self.m = m


class Hoarding(Remembering):
    def update(self, grads: Any, state: Any, *, params: Any = None, inplace: bool = True) -> Any:
        self.m = grads
        return -0.1 * grads, state


UNFIT = {
    "an object": (Averaging(lambda: Kept(torch.zeros(3)), lambda s, g: (g, s)), "one with Kept "),
    "tensors elsewhere": (Hoarding(), "one that keeps tensors elsewhere"),
    "another shape": (
        Averaging(lambda: torch.zeros(1), lambda s, g: (g, torch.cat([s, s]))),
        "one with a tensor that changes its shape, at ",
    ),
    "data beside the tensors": (
        Averaging(lambda: 0, lambda s, g: (g, s if g.abs().amax().gt(0.99).all() else s + 1)),
        "turns a tensor into a Python number",
    ),
}


@pytest.mark.parametrize(("optimizer", "text"), UNFIT.values(), ids=UNFIT)
def test_a_state_that_cannot_be_carried(optimizer: Any, text: str) -> None:
    theta, support, _ = tensors(logistic())
    with pytest.raises(TypeError, match=text):
        mf.optimizer_loop(logistic_loss, optimizer, steps=3)(theta, support)


def test_a_counter_in_a_binomial_expansion() -> None:
    """Its rounds take steps with different counts, which cannot be mapped."""
    theta, support, _ = tensors(logistic())
    reference = mf.Binomial(2)(mf.gradient_descent(logistic_loss, lr=0.1, momentum=0.5, steps=4))
    adapt = mf.Binomial(2)(mf.optimizer_loop(logistic_loss, MOMENTA["none at first"](), steps=4))
    close(jacrev(adapt)(theta, support), jacrev(reference)(theta, support), 1e-13)


def test_tasks_that_stopped_at_different_steps_cannot_count_in_python() -> None:
    inner = mf.optimizer_loop(
        lambda phi, x: ((phi - x) ** 2).sum(), torchopt.radam(0.1), steps=4, tolerance=1e-3
    )
    theta = torch.zeros(2)
    with pytest.raises(TypeError, match=r"got one that counts its steps in Python\. Leave out the tolerance"):
        vmap(mf.Explicit()(inner), in_dims=(None, 0))(theta, torch.stack([theta, theta + 1]))


BLACK_BOXES = {
    "lbfgs": (partial(torch.optim.LBFGS, max_iter=200, tolerance_grad=1e-12, tolerance_change=0.0), 1),
    "adam": (partial(torch.optim.Adam, lr=0.05), 450),
    "sgd": (partial(torch.optim.SGD, lr=0.2, momentum=0.5), 200),
}


@pytest.mark.parametrize("name", BLACK_BOXES)
@pytest.mark.parametrize("estimator", [mf.Implicit(mf.Direct()), mf.FiniteDifference()], ids=repr)
def test_torchs_own_optimizers_as_black_boxes(estimator: mf.Estimator, name: str) -> None:
    make, steps = BLACK_BOXES[name]
    tasks = [logistic(seed, prox=0.8, steps=200) for seed in range(2)]
    for task in tasks:
        task.theta = tasks[0].theta
    theta = tensors(tasks[0])[0]
    support, query = (
        tuple(torch.stack(x) for x in zip(*(tensors(t)[i] for t in tasks), strict=True)) for i in (1, 2)
    )
    adapt = estimator(
        mf.optimizer_loop(lambda p, b: logistic_loss(p["w"], b), make, steps=steps, prox=0.8, tolerance=1e-11)
    )

    def meta_loss(t: Any, s: Any, q: Any) -> Tensor:
        return logistic_loss(adapt(t, s)["w"], q)

    found = vmap(grad(meta_loss), in_dims=(None, 0, 0))({"w": theta}, support, query)["w"]
    for i, task in enumerate(tasks):
        close(found[i], task.implicit(), 1e-9 if isinstance(estimator, mf.Implicit) else 1e-4)


def test_a_black_box_stops_at_its_tolerance() -> None:
    theta, support, _ = tensors(logistic())
    steps: list[int] = []

    class Counting(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            steps.append(1)
            return super().step(closure)

    inner = mf.optimizer_loop(logistic_loss, partial(Counting, lr=0.3), steps=500, prox=0.8, tolerance=1e-4)
    phi = inner(theta, support)
    assert 1 < len(steps) < 100
    assert (grad(logistic_loss)(phi, support) + 0.8 * (phi - theta)).norm() <= 1e-4


@pytest.mark.parametrize(
    ("optimizer", "got"),
    [
        (None, "got NoneType None"),
        (torch.optim.SGD([torch.ones(1)], lr=0.1), "got an optimizer that already has parameters"),
        (lambda params: 3, "got int 3"),
    ],
    ids=["none", "bound", "no optimizer"],
)
def test_what_is_no_optimizer(optimizer: Any, got: str) -> None:
    with pytest.raises(TypeError, match=f"optimizer: expected a functional optimizer.*{got}"):
        mf.optimizer_loop(logistic_loss, optimizer, steps=2)(*tensors(logistic())[:2])


def test_a_black_box_has_no_path() -> None:
    with pytest.raises(TypeError, match="Truncated"):
        mf.Truncated(1)(mf.optimizer_loop(logistic_loss, torch.optim.LBFGS, steps=2, prox=1.0))
