"""Bad input: a clear error at the call, and its text."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad

import metafunc as mf


def loss(phi: Tensor, x: Tensor) -> Tensor:
    return ((phi * x) ** 2).mean()


def tree_loss(phi: Any, x: Tensor) -> Tensor:
    return loss(phi["w"], x)


THETA, X = torch.arange(1.0, 4.0, dtype=torch.float64), torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
INNER = mf.gradient_descent(loss, lr=0.1, steps=3)


def raises(kind: type[Exception], text: str) -> Any:
    return pytest.raises(kind, match=re.escape(text))


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        (
            {"steps": 0},
            ValueError,
            "steps: expected an integer of at least 1, got 0. Give steps such a value",
        ),
        ({"steps": 2.0}, TypeError, "steps: expected an integer of at least 1, got float 2.0"),
        ({"steps": True}, TypeError, "steps: expected an integer of at least 1, got bool True"),
        ({"lr": 0}, ValueError, "lr: expected a positive number, got 0"),
        ({"lr": float("nan")}, ValueError, "lr: expected a positive number, got nan"),
        (
            {"lr": "fast"},
            TypeError,
            "lr: expected a float, a tensor, a tree of these, or a function of theta, got str 'fast'",
        ),
        ({"lr": torch.tensor(1)}, TypeError, "lr: expected a floating-point tensor, got int64[] on cpu"),
        ({"prox": -1.0}, ValueError, "prox: expected a number of at least 0, got -1.0"),
        ({"momentum": 1.0}, ValueError, "momentum: expected a number in [0, 1), got 1.0"),
        ({"nesterov": True}, ValueError, "nesterov: expected a momentum above 0, got momentum=0"),
        (
            {"objective": lambda phi, theta, x: phi.sum()},
            ValueError,
            "expected exactly one of loss= and objective=",
        ),
        ({"depth": 3}, TypeError, "unexpected keyword argument 'depth'"),
    ],
)
def test_gradient_descent_options(options: dict[str, Any], kind: type[Exception], text: str) -> None:
    with raises(kind, text):
        mf.gradient_descent(loss, **({"lr": 0.1, "steps": 3} | options))


def test_neither_loss_nor_objective() -> None:
    with raises(ValueError, "expected exactly one of loss= and objective=, got none or both"):
        mf.gradient_descent(lr=0.1, steps=3)
    with raises(TypeError, "gradient_descent: expected a function loss(phi, *data) -> scalar, got int 3"):
        mf.gradient_descent(3, lr=0.1, steps=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda: mf.Truncated(-1), ValueError, "depth: expected an integer of at least 0, got -1"),
        (lambda: mf.Truncated(True), TypeError, "depth: expected an integer of at least 0, got bool True"),
        (
            lambda: mf.Truncated(4)(INNER),
            ValueError,
            "depth: expected at most the 3 steps of gradient_descent(steps=3), got 4. Use depth=3",
        ),
        (lambda: mf.Binomial(-1), ValueError, "order: expected an integer of at least 0, got -1"),
        (lambda: mf.Binomial(1.5), TypeError, "order: expected an integer of at least 0, got float 1.5"),
        (lambda: mf.Binomial(4)(INNER), ValueError, "order: expected at most the 3 steps"),
        (
            lambda: mf.Binomial(2, window=1),
            ValueError,
            "window: expected None or an integer of at least 2, got 1",
        ),
        (
            lambda: mf.Binomial(1, window=0),
            ValueError,
            "window: expected None or an integer of at least 1, got 0",
        ),
        (lambda: mf.Binomial(1, window=9)(INNER), ValueError, "window: expected at most the 3 steps"),
        (
            lambda: mf.Explicit(checkpoint=0),
            ValueError,
            "checkpoint: expected an integer of at least 1, got 0. Give checkpoint such a value, e.g. checkpoint=True",
        ),
        (
            lambda: mf.Explicit(checkpoint=0.5),
            TypeError,
            "checkpoint: expected an integer of at least 1, got float 0.5",
        ),
        (lambda: mf.Explicit(checkpoint=7)(INNER), ValueError, "checkpoint: expected at most the 3 steps"),
        (lambda: mf.FiniteDifference(nu=0), ValueError, "nu: expected None or a positive number, got 0"),
        (
            lambda: mf.FiniteDifference(scheme="backward"),
            ValueError,
            "scheme: expected 'forward', 'symmetric' or 'tangent', got 'backward'",
        ),
        (lambda: mf.FiniteDifference(order=3), ValueError, "order: expected a positive even integer, got 3"),
        (
            lambda: mf.FiniteDifference(scheme="forward", order=0),
            ValueError,
            "order: expected None or an integer of at least 1, got 0",
        ),
        (lambda: mf.FiniteDifference(scheme="tangent", nu=0.1), ValueError, '"tangent" takes no difference'),
        (
            lambda: mf.FiniteDifference(steps=0),
            ValueError,
            "steps: expected None or an integer of at least 1, got 0",
        ),
        (lambda: mf.CentralDifference(0.0), ValueError, "delta: expected None or a positive number, got 0.0"),
        (
            lambda: mf.Explicit()(mf.FirstOrder()(INNER)),
            TypeError,
            "Explicit(): expected an inner problem, got one already wrapped in FirstOrder()",
        ),
        (
            lambda: mf.Explicit()(loss),
            TypeError,
            "Explicit: expected an inner problem, got loss. Build one with mf.gradient_descent",
        ),
        (
            lambda: mf.Implicit()(INNER),
            mf.ZeroGradientError,
            "gradient_descent(steps=3) without prox, whose minimiser does not depend on where it starts. Give prox=...",
        ),
        (
            lambda: mf.FiniteDifference()(INNER),
            mf.ZeroGradientError,
            "without prox, whose minimiser does not depend on where it starts",
        ),
        (lambda: mf.Truncated(2, order=3), TypeError, "unexpected keyword argument 'order'"),
        (lambda: mf.iterates(steps=0), ValueError, "steps: expected an integer of at least 1, got 0"),
        (
            lambda: mf.minimizes("objective"),
            TypeError,
            "minimizes: expected a function objective(phi, theta, *data) -> scalar, got str 'objective'",
        ),
        (
            lambda: mf.meta_grad(loss, INNER),
            TypeError,
            "meta_grad: expected an inner problem wrapped in an estimator",
        ),
        (
            lambda: mf.meta_grad(loss, mf.Explicit()(INNER), tasks="vmap"),
            TypeError,
            "tasks: expected Vmap(), Vmap(chunk=...) or Loop(), or None, got str 'vmap'",
        ),
        (lambda: mf.Vmap(chunk=0), ValueError, "chunk: expected None or an integer of at least 1, got 0"),
    ],
)
def test_estimators_and_their_wrapping(make: Any, kind: type[Exception], text: str) -> None:
    with raises(kind, text):
        make()


def by_hand(theta: Tensor, x: Tensor) -> Tensor:
    return x


WITHOUT = "expected its options, got what it is to be put around. Write mf."
ADAPT = mf.Explicit()(INNER)
AMISS = {
    "an estimator at once around": (lambda: mf.Implicit(INNER), f"Implicit: {WITHOUT}Implicit()(inner)"),
    "by name": (lambda: mf.Implicit(solver=INNER), f"Implicit: {WITHOUT}Implicit()(inner)"),
    "with required options": (lambda: mf.Binomial(INNER), f"Binomial: {WITHOUT}Binomial(order=...)(inner)"),
    "without options at all": (lambda: mf.FirstOrder(INNER), f"FirstOrder: {WITHOUT}FirstOrder()(inner)"),
    "around another estimator's": (lambda: mf.Explicit(mf.Reptile()(INNER)), f"Explicit: {WITHOUT}"),
    "above a function": (lambda: mf.Truncated(by_hand), "or @mf.Truncated(depth=...) above a function"),
    "above what may be a solver": (lambda: mf.Implicit(by_hand)(THETA, X), f"Implicit: {WITHOUT}Implicit()"),
    "a class for a solver": (lambda: mf.Implicit(mf.CG), "got the class CG. Build one, CG(...)"),
    "an estimator for a solver": (lambda: mf.Implicit(mf.Explicit()), "solver: expected a linear solver"),
    "a class for a curvature": (
        lambda: mf.Explicit(curvature=mf.Exact),
        "curvature: expected a curvature such as Exact(), CentralDifference() or GaussNewton(), got the class Exact",
    ),
    "a word for a curvature": (lambda: mf.Binomial(1, curvature="exact"), "got str 'exact'"),
    "a class of tasks": (lambda: mf.meta_grad(loss, ADAPT, tasks=mf.Vmap), "Build one, Vmap(...)"),
    "a declaration of nothing": (lambda: mf.Implicit()(mf.minimizes(loss)), "got minimizes(loss). Build one"),
    "a declaration without parentheses": (lambda: mf.iterates(by_hand), "steps: expected an integer"),
    "a solver for an inner problem": (lambda: mf.Explicit()(mf.CG()), "expected an inner problem, got CG"),
    "a module for a loss": (
        lambda: mf.gradient_descent(torch.nn.Linear(1, 1), lr=0.1, steps=1),
        (
            "expected a function loss(phi, *data) -> scalar, got the module Linear. "
            "Make one of a module with mf.functional(module, loss_fn)"
        ),
    ),
    "a module for an objective": (
        lambda: mf.newton_cg(objective=torch.nn.MSELoss()),
        "newton_cg: expected a function objective(phi, theta, *data) -> scalar, got the module MSELoss",
    ),
    "an inner problem for a loss": (
        lambda: mf.adam(INNER, lr=0.1, steps=1),
        "adam: expected a function loss(phi, *data) -> scalar, got Inner gradient_descent(steps=3)",
    ),
}


@pytest.mark.parametrize(("make", "text"), AMISS.values(), ids=AMISS)
def test_what_is_put_in_the_wrong_place(make: Any, text: str) -> None:
    with raises(TypeError, text):
        make()


def test_an_inner_problem_prints_its_name() -> None:
    assert repr(INNER) == "gradient_descent(steps=3)"
    assert repr(mf.with_hessian_batch(INNER)) == "with_hessian_batch(gradient_descent(steps=3))"


def test_estimators_can_be_copied() -> None:
    for estimator in (mf.Binomial(2), mf.Implicit(mf.CG(3)), mf.FirstOrder()):
        assert copy.deepcopy(estimator) == pickle.loads(pickle.dumps(estimator)) == estimator


@pytest.mark.parametrize(
    "estimator",
    [mf.Explicit(), mf.Truncated(1), mf.Binomial(1), mf.FiniteDifference(), mf.Reptile()],
    ids=repr,
)
def test_path_estimators_around_a_black_box(estimator: mf.Estimator) -> None:
    inner = mf.minimizes(lambda phi, theta: ((phi - theta) ** 2).sum())(lambda theta: theta)
    with pytest.raises(TypeError, match=r"expected an inner (problem solved by|solver with)"):
        estimator(inner)


def test_the_message_for_a_black_box_says_what_to_use() -> None:
    @mf.minimizes(lambda phi, theta: ((phi - theta) ** 2).sum())
    def by_hand(theta: Tensor) -> Tensor:
        return theta

    with raises(TypeError, "got the black-box solver by_hand. Use Implicit, which needs the solution only"):
        mf.Truncated(1)(by_hand)
    with raises(
        TypeError, "CG(): expected a symmetric linear system, got the residual of f, which is not known"
    ):
        mf.Implicit()(mf.solves(lambda phi, theta: phi - theta)(_named_f))


def _named_f(theta: Tensor) -> Tensor:
    return theta


_named_f.__name__ = "f"


def test_parameters() -> None:
    adapt = mf.Explicit()(mf.gradient_descent(tree_loss, lr=0.1, steps=3))
    with raises(ValueError, "theta: expected a tree with at least one tensor, got an empty tree"):
        adapt({}, X)
    with raises(TypeError, "theta at ['w']: expected a floating-point tensor, got int64[3] on cpu"):
        adapt({"w": torch.ones(3, dtype=torch.int64)}, X)
    with raises(TypeError, "theta at ['k']: expected a floating-point tensor, got int 3"):
        adapt({"w": THETA, "k": 3}, X)
    picky = mf.Explicit()(mf.gradient_descent(tree_loss, lr=0.1, steps=3, init=lambda t: {"w": t["n"]}))
    with raises(TypeError, "init(theta) at ['w']: expected a floating-point tensor, got int64[3] on cpu"):
        picky({"w": THETA, "n": torch.ones(3, dtype=torch.int64)}, X)


@pytest.mark.parametrize("estimator", [mf.Explicit(), mf.FirstOrder(), mf.Binomial(1)], ids=repr)
def test_a_loss_that_is_no_scalar(estimator: mf.Estimator) -> None:
    adapt = estimator(mf.gradient_descent(lambda phi, x: (phi * x) ** 2, lr=0.1, steps=3))
    with raises(
        ValueError,
        "loss: expected a scalar tensor, got float64[3] on cpu. Reduce it, for example with .mean()",
    ):
        adapt(THETA, X)
    with raises(ValueError, "outer: expected a scalar tensor, got float64[3] on cpu"):
        mf.meta_grad(lambda phi, x: phi * x, estimator(INNER))(THETA, X, X)
    with raises(ValueError, "objective: expected a scalar tensor, got float 1.0"):
        mf.Explicit()(mf.gradient_descent(objective=lambda phi, theta, x: 1.0, lr=0.1, steps=3))(THETA, X)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda theta: {"w": theta}, "solver: expected phi with the structure"),
        (lambda theta: theta[:2], "solver at .: expected float64[3] on cpu, got float64[2] on cpu"),
        (lambda theta: theta.float(), "solver at .: expected float64[3] on cpu, got float32[3] on cpu"),
        (lambda theta: theta.to("meta"), "solver at .: expected float64[3] on cpu, got float64[3] on meta"),
        (lambda theta: None, "solver at .: expected float64[3] on cpu, got NoneType None"),
    ],
)
def test_a_black_box_that_returns_another_tree(answer: Any, text: str) -> None:
    def solver(theta: Tensor) -> Any:
        return answer(theta)

    adapt = mf.Implicit()(mf.minimizes(lambda phi, theta: ((phi - theta) ** 2).sum())(solver))
    with raises(ValueError, text):
        adapt(THETA)


def test_a_step_or_a_residual_of_another_shape() -> None:
    @mf.Explicit()
    @mf.iterates(steps=2)
    def step(phi: Tensor, theta: Tensor) -> Tensor:
        return phi[:2]

    with raises(ValueError, "step at .: expected float64[3] on cpu, got float64[2] on cpu"):
        step(THETA)
    adapt = mf.Implicit(mf.Direct())(mf.solves(lambda phi, theta: (phi - theta)[:1])(lambda theta: theta))
    with raises(ValueError, "residual at .: expected float64[3] on cpu, got float64[1] on cpu"):
        grad(lambda t: adapt(t).sum())(THETA)


def test_a_phi_unlike_theta_is_announced_by_init() -> None:
    """theta is a weight of the regulariser, phi the model's parameters."""

    def objective(phi: Tensor, theta: Tensor, x: Tensor) -> Tensor:
        return ((phi - x) ** 2).sum() + theta * (phi**2).sum()

    adapt = mf.Implicit()(
        mf.minimizes(objective, init=lambda _: torch.zeros(3, dtype=torch.float64))(
            lambda theta, x: x / (1 + theta)
        )
    )
    theta = torch.tensor(0.5, dtype=torch.float64)
    found = grad(lambda t: adapt(t, X).sum())(theta)
    assert abs(float(found + X.sum() / 1.5**2)) < 1e-12


LEARNED = {"w": THETA, "lr": torch.tensor(0.1, dtype=torch.float64)}
LEARNING = mf.gradient_descent(loss, lr=lambda t: t["lr"], prox=0.5, steps=3, init=lambda t: t["w"])


@pytest.mark.parametrize(
    "estimator",
    [
        mf.Implicit(),
        mf.FiniteDifference(),
        mf.FiniteDifference(scheme="tangent"),
        mf.FirstOrder(),
        mf.Truncated(0),
        mf.Binomial(0),
        mf.Reptile(),
    ],
    ids=repr,
)
def test_a_gradient_to_lr_where_there_is_none(estimator: mf.Estimator) -> None:
    adapt = estimator(LEARNING)
    text = "got a gradient asked for at .theta['lr'], which feeds the inner solve but gets a zero gradient by construction"
    with raises(mf.ZeroGradientError, text):
        grad(lambda t: loss(adapt(t, X), X))(LEARNED)
    with raises(mf.ZeroGradientError, text):
        mf.meta_grad(loss, adapt)(LEARNED, X, X)
    only_w = grad(lambda w: loss(adapt({"w": w, "lr": LEARNED["lr"]}, X), X))(THETA)
    assert only_w.norm() > 0
    with raises(mf.ZeroGradientError, ".hyper['lr']"):
        lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        loss(estimator(mf.gradient_descent(loss, lr=lr, prox=0.5, steps=3))(THETA, X), X).backward()


@pytest.mark.parametrize(
    "estimator", [mf.FirstOrder(), mf.Truncated(0), mf.Binomial(0), mf.Reptile()], ids=repr
)
def test_a_gradient_to_the_data_where_there_is_none(estimator: mf.Estimator) -> None:
    adapt = estimator(mf.gradient_descent(loss, lr=0.1, prox=0.5, steps=3))
    with raises(mf.ZeroGradientError, "got a gradient asked for at .data[0]"):
        grad(lambda x: loss(adapt(THETA, x), X))(X)


def test_an_implicit_gradient_to_an_initialisation_that_the_solution_forgets() -> None:
    @mf.Implicit()
    @mf.minimizes(lambda phi, theta, x: ((phi - x) ** 2).sum())
    def adapt(theta: Tensor, x: Tensor) -> Tensor:
        return x

    with raises(mf.ZeroGradientError, "got a gradient asked for at .theta"):
        grad(lambda t: adapt(t, X).sum())(THETA)
    assert torch.equal(grad(lambda x: adapt(THETA, x).sum())(X), torch.ones_like(X))


def test_a_leaf_that_the_solve_never_sees_gets_its_zero() -> None:
    """A parameter of the outer loss alone is no mistake."""
    theta = {"w": THETA, "scale": torch.tensor(2.0, dtype=torch.float64)}
    for estimator in (mf.FirstOrder(), mf.Implicit(), mf.Explicit(), mf.FiniteDifference()):
        adapt = estimator(mf.gradient_descent(loss, lr=0.1, prox=0.5, steps=3, init=lambda t: t["w"]))
        found = grad(lambda t, a=adapt: t["scale"] * loss(a(t, X), X))(theta)
        assert float(found["scale"]) == float(loss(adapt(theta, X), X))


def test_second_derivatives_and_forward_mode_that_are_refused() -> None:
    adapt = mf.FirstOrder()(INNER)
    with raises(
        mf.SecondDerivativeError,
        "FirstOrder() gives an estimate of the meta-gradient that is not the derivative of any function",
    ):
        torch.func.hessian(lambda t: loss(adapt(t, X), X))(THETA)
    with raises(mf.ForwardModeError, "Reptile() has no forward-mode derivative. Use reverse mode"):
        torch.func.jacfwd(lambda t: mf.Reptile()(INNER)(t, X))(THETA)


def test_a_bare_inner_problem_has_no_derivative() -> None:
    assert INNER(THETA, X).shape == THETA.shape
    with raises(TypeError, "a derivative was taken of an inner solve that no estimator is around. Wrap it"):
        grad(lambda t: loss(INNER(t, X), X))(THETA)


def test_reptile_refuses_a_mean_over_vmap() -> None:
    adapt = mf.Reptile()(INNER)
    tasks = torch.stack([X, 2 * X])
    mean = grad(lambda t: torch.func.vmap(lambda x: loss(adapt(t, x), x))(tasks).mean())
    with raises(
        mf.ZeroGradientError, "Take it task by task, vmap(grad(meta_loss)), and average, or use mf.meta_grad"
    ):
        mean(THETA)


def test_the_batch_of_meta_grad() -> None:
    batched = mf.meta_grad(loss, mf.Explicit()(INNER), tasks=mf.Vmap())
    with raises(
        ValueError,
        "tasks: expected tensors that all have the same leading axis of tasks, got leading sizes ['2', '3']",
    ):
        batched(THETA, torch.ones(2, 3), torch.ones(3, 3))
    with raises(TypeError, "meta_grad: expected f(theta, *data, query), got theta alone"):
        batched(THETA)
