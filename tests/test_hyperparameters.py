"""Meta-learned hyperparameters under every estimator that defines them, by plain autograd and at the solution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad

import metafunc as mf
from metafunc import tree
from tests.dense import logistic
from tests.tasks import logistic_loss, tensors

STEPS, SOLVED = 4, 200
Objective = Callable[[Any, Any, Any], Tensor]  # (phi, theta, batch)


@dataclass
class Case:
    """A way to learn a hyperparameter: what theta is, the inner problem, and the same written out by hand."""

    theta: Callable[[Tensor], Any]
    inner: Callable[[int], mf.Inner]
    objective: Objective
    init: Callable[[Any], Any] = lambda theta: theta["w"]
    rate: Callable[[Any], Any] = lambda theta: 0.25
    path_only: bool = False


def ridge(weight: Any, x: Tensor) -> Tensor:
    return 0.5 * (weight * x**2).sum()


def scales() -> Tensor:
    return torch.linspace(0.5, 1.5, 6)


def head_and_body(phi: Any, theta: Any, batch: Any) -> Tensor:
    """ANIL: the body is a shared representation, the head alone is adapted."""
    return logistic_loss(phi, (torch.tanh(batch[0] @ theta["body"]), batch[1])) + ridge(0.5, phi - theta["w"])


def weighted(phi: Tensor, theta: Any, batch: Any) -> Tensor:
    x, y = batch
    return (torch.sigmoid(theta["weights"]) * torch.nn.functional.softplus(-y * (x @ phi))).mean()


CASES = {
    "Meta-SGD": Case(
        lambda w: {"w": w, "lr": 0.2 * scales()},
        lambda k: mf.gradient_descent(
            logistic_loss, lr=lambda t: t["lr"], prox=0.6, steps=k, init=lambda t: t["w"]
        ),
        lambda phi, t, b: logistic_loss(phi, b) + ridge(0.6, phi - t["w"]),
        rate=lambda t: t["lr"],
        path_only=True,
    ),
    "scalar prox": Case(
        lambda w: {"w": w, "prox": torch.tensor(0.6)},
        lambda k: mf.gradient_descent(
            logistic_loss, lr=0.25, prox=lambda t: t["prox"], steps=k, init=lambda t: t["w"]
        ),
        lambda phi, t, b: logistic_loss(phi, b) + ridge(t["prox"], phi - t["w"]),
    ),
    "prox for each parameter, positive by softplus": Case(
        lambda w: {"w": w, "raw": scales()},
        lambda k: mf.gradient_descent(
            logistic_loss,
            lr=0.25,
            prox=lambda t: torch.nn.functional.softplus(t["raw"]),
            steps=k,
            init=lambda t: t["w"],
        ),
        lambda phi, t, b: logistic_loss(phi, b) + ridge(torch.nn.functional.softplus(t["raw"]), phi - t["w"]),
    ),
    "weight decay": Case(
        lambda w: {"w": w, "decay": 0.4 * scales()},
        lambda k: mf.gradient_descent(
            logistic_loss,
            lr=0.25,
            prox=0.3,
            weight_decay=lambda t: t["decay"],
            steps=k,
            init=lambda t: t["w"],
        ),
        lambda phi, t, b: logistic_loss(phi, b) + ridge(0.3, phi - t["w"]) + ridge(t["decay"], phi),
    ),
    "weights of the examples' losses": Case(
        lambda w: {"w": w, "weights": torch.linspace(-1, 1, 12)},
        lambda k: mf.gradient_descent(objective=weighted, lr=0.25, prox=0.6, steps=k, init=lambda t: t["w"]),
        lambda phi, t, b: weighted(phi, t, b) + ridge(0.6, phi - t["w"]),
    ),
    "ANIL with a body learned jointly": Case(
        lambda w: {"w": w, "body": 0.5 * torch.eye(6) + 0.1 * torch.ones(6, 6)},
        lambda k: mf.gradient_descent(objective=head_and_body, lr=0.25, steps=k, init=lambda t: t["w"]),
        head_and_body,
    ),
}


def by_hand(case: Case, theta: Any, support: Any, query: Any, steps: int) -> Tensor:
    """The exact derivative of the path by eager autograd, as one flat vector."""
    leaves = tree.map(lambda x: x.clone().requires_grad_(), theta)
    phi = case.init(leaves)
    for _ in range(steps):
        slope = torch.autograd.grad(case.objective(phi, leaves, support), phi, create_graph=True)[0]
        phi = phi - case.rate(leaves) * slope
    loss = logistic_loss(phi, query)
    bars = torch.autograd.grad(loss, tree.leaves(leaves), allow_unused=True)
    return torch.cat([b.flatten() for b in bars if b is not None])


def found(case: Case, estimator: mf.Estimator, theta: Any, support: Any, query: Any, steps: int) -> Tensor:
    adapt = estimator(case.inner(steps))
    return tree.ravel(grad(lambda t: logistic_loss(adapt(t, support), query))(theta))[0]


def close(a: Tensor, b: Tensor, limit: float) -> None:
    assert b.norm() > 1e-2
    assert (a - b).norm() <= limit * b.norm()


@pytest.mark.parametrize(
    "estimator",
    [mf.Explicit(), mf.Explicit(checkpoint=True), mf.Truncated(STEPS), mf.Binomial(STEPS)],
    ids=repr,
)
@pytest.mark.parametrize("name", CASES)
def test_exact_path_estimators(name: str, estimator: mf.Estimator) -> None:
    w, support, query = tensors(logistic())
    case = CASES[name]
    theta = case.theta(w)
    close(
        found(case, estimator, theta, support, query, STEPS),
        by_hand(case, theta, support, query, STEPS),
        1e-11,
    )
    each = grad(lambda t: logistic_loss(estimator(case.inner(STEPS))(t, support), query))(theta)
    assert all(x.norm() > 1e-4 for x in tree.leaves(each))


@pytest.mark.parametrize(
    ("estimator", "limit"),
    [
        (mf.Implicit(mf.Direct()), 1e-9),
        (mf.Implicit(mf.CG(12, rtol=0.0)), 1e-9),
        (mf.FiniteDifference(), 1e-6),
        (mf.FiniteDifference(scheme="tangent"), 1e-9),
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", [n for n, c in CASES.items() if not c.path_only])
def test_estimators_of_the_solution(name: str, estimator: mf.Estimator, limit: float) -> None:
    w, support, query = tensors(logistic())
    case = CASES[name]
    theta = case.theta(w)
    expected = by_hand(case, theta, support, query, SOLVED)
    close(found(case, estimator, theta, support, query, SOLVED), expected, limit)


def test_a_learning_rate_has_no_implicit_gradient() -> None:
    w, support, query = tensors(logistic())
    case = CASES["Meta-SGD"]
    for estimator in (mf.Implicit(), mf.FiniteDifference()):
        with pytest.raises(mf.ZeroGradientError, match=r"\['lr'\].*Use Explicit or Truncated"):
            found(case, estimator, case.theta(w), support, query, STEPS)


def test_a_learned_weight_decay_alone_makes_the_solution_depend_on_theta() -> None:
    _, support, query = tensors(logistic())
    decay = 0.4 * scales()

    def inner(steps: int) -> mf.Inner:
        return mf.gradient_descent(
            logistic_loss, lr=0.25, weight_decay=torch.exp, steps=steps, init=torch.zeros_like
        )

    implicit, explicit = (
        grad(lambda t, a=estimator(inner(4 * SOLVED)): logistic_loss(a(t, support), query))(decay.log())  # noqa: B008
        for estimator in (mf.Implicit(mf.Direct()), mf.Explicit())
    )
    close(implicit, explicit, 1e-9)
    with pytest.raises(mf.ZeroGradientError, match="without prox"):
        mf.Implicit()(mf.gradient_descent(logistic_loss, lr=0.25, weight_decay=0.1, steps=3))


def test_a_frozen_body_is_data() -> None:
    """ANIL with a body that is not trained: detach it, or pass it with the data and ask for no gradient."""
    w, support, query = tensors(logistic())
    theta = CASES["ANIL with a body learned jointly"].theta(w)
    inner = mf.gradient_descent(
        objective=lambda phi, t, body, b: head_and_body(phi, {"w": t, "body": body}, b), lr=0.25, steps=STEPS
    )
    adapt = mf.Explicit()(inner)
    to_head = grad(lambda t: logistic_loss(adapt(t, theta["body"], support), query))(w)
    joint = found(CASES["ANIL with a body learned jointly"], mf.Explicit(), theta, support, query, STEPS)
    close(to_head, tree.ravel(theta)[1](joint)["w"], 1e-12)
    both = grad(lambda t: logistic_loss(adapt(t["w"], t["body"], support), query))(theta)
    close(to_head, both["w"], 1e-12)


def test_hyperparameters_declared_as_tensors() -> None:
    """A tensor handed over at declaration gets its gradient as one in theta does."""
    w, support, query = tensors(logistic())
    decay, prox = 0.4 * scales(), torch.tensor(0.3)

    def outer(decay: Tensor, prox: Tensor) -> Tensor:
        inner = mf.gradient_descent(logistic_loss, lr=0.25, prox=prox, weight_decay=decay, steps=STEPS)
        return logistic_loss(mf.Explicit()(inner)(w, support), query)

    slopes = grad(outer, argnums=(0, 1))(decay, prox)
    case = CASES["weight decay"]
    by_theta = found(case, mf.Explicit(), {"w": w, "decay": decay}, support, query, STEPS)
    close(slopes[0], tree.ravel({"w": w, "decay": decay})[1](by_theta)["decay"], 1e-12)
    assert slopes[1].abs() > 1e-4
