"""What a declared function is given and may return: copies, steps with a derivative, and errors that say so."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

import metafunc as mf
from metafunc import tree
from tests.tasks import close

A = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
THETA, DATA = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64), torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)  # fmt: skip


def objective(phi: Tensor, theta: Tensor, data: Tensor) -> Tensor:
    return 0.5 * (A * phi**2).sum() - data @ phi + 0.5 * ((phi - theta) ** 2).sum()


def residual(phi: Tensor, theta: Tensor, data: Tensor) -> Tensor:
    return A * phi - data + phi - theta


SOLUTION, GRADIENT = (THETA + DATA) / (A + 1), 1 / (A + 1)


# Black boxes


def in_place(theta: Tensor, data: Tensor) -> Tensor:
    """Everything that it is given is overwritten."""
    theta += data
    theta /= A + 1
    data.zero_()
    return theta


def through_numpy(theta: Tensor, data: Tensor) -> Tensor:
    memory = theta.numpy()
    memory += data.numpy()
    memory /= A.numpy() + 1
    return theta


BUFFER = torch.empty(3, dtype=torch.float64)


def in_one_buffer(theta: Tensor, data: Tensor) -> Tensor:
    """What is returned is written to again by the next call."""
    return BUFFER.copy_((theta + data) / (A + 1))


SOLVERS = {"in place": in_place, "through numpy": through_numpy, "in one buffer": in_one_buffer}
WAYS: dict[str, Callable[[Any], Any]] = {
    "minimizes": mf.minimizes(objective),
    "solves": mf.solves(residual, symmetric=True),
    "minimizes, with an init": mf.minimizes(objective, init=lambda theta: theta),
}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("declare", WAYS.values(), ids=WAYS)
def test_a_black_box_works_on_copies(declare: Any, solver: Any) -> None:
    adapt = mf.Implicit(mf.Direct())(declare(solver))
    theta, data = THETA.clone().requires_grad_(), DATA.clone().requires_grad_()
    phi = adapt(theta, data)
    close(phi, SOLUTION, 1e-14)
    (phi**2).sum().backward()
    close(theta.grad, 2 * SOLUTION * GRADIENT, 1e-12)
    assert torch.equal(theta, THETA)
    assert torch.equal(data, DATA)
    many = torch.stack([DATA, 2 * DATA, -DATA])
    found = vmap(adapt, in_dims=(None, 0))(THETA, many)
    close(found, (THETA + many) / (A + 1), 1e-14)
    with torch.no_grad():
        first, second = adapt(THETA, DATA), adapt(THETA, 2 * DATA)
    close(torch.stack([first, second]), (THETA + many[:2]) / (A + 1), 1e-14)


@pytest.mark.parametrize("take", [0, 1], ids=["theta", "the data"])
def test_what_a_black_box_returns_is_its_own(take: int) -> None:
    adapt = mf.Implicit(mf.Direct())(mf.minimizes(objective)(lambda *given: given[take]))
    given = [THETA.clone(), DATA.clone()]
    phi = adapt(*given)
    phi.add_(1.0)
    assert torch.equal(given[0], THETA)
    assert torch.equal(given[1], DATA)


class Overwriting(torch.optim.SGD):
    """An optimizer that leaves nothing as it was."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.zero_()


OWN = {
    "optimizer": lambda loss: mf.optimizer_loop(loss, partial(Overwriting, lr=0.1), steps=3, prox=1.0, init=lambda t: t),
    "a solved newton_cg": lambda loss: mf.newton_cg(loss, prox=1.0, tolerance=1e9),
}  # fmt: skip


@pytest.mark.parametrize("make", OWN.values(), ids=OWN)
def test_a_minimiser_leaves_theta_alone(make: Any) -> None:
    theta = THETA.clone()
    phi = make(lambda phi, data: 0.5 * (A * phi**2).sum() - data @ phi)(theta, DATA)
    assert torch.equal(theta, THETA)
    phi.add_(1.0)
    assert torch.equal(theta, THETA)


def greedy_solve(matvec: Any, b: Tensor) -> Tensor:
    """Richardson's iteration in the memory of b and of every product."""
    x = torch.zeros_like(b)
    for _ in range(200):
        x += 0.2 * (b - matvec(x).mul_(1.0))
    b.zero_()
    return x


def greedy_inverse(w: Tensor) -> Tensor:
    return w.div_(A + 1)


@pytest.mark.parametrize(
    "solver", [greedy_solve, mf.CG(preconditioner=greedy_inverse), mf.GMRES(preconditioner=greedy_inverse)], ids=["foreign", "cg", "gmres"]
)  # fmt: skip
def test_linear_solvers_and_preconditioners_in_place(solver: Any) -> None:
    adapt = mf.Implicit(solver)(mf.minimizes(objective)(in_place))
    for _ in range(2):
        close(grad(lambda t: (adapt(t, DATA) ** 2).sum())(THETA), 2 * SOLUTION * GRADIENT, 1e-10)


# Steps


def step(phi: Tensor, theta: Tensor, data: Tensor) -> Tensor:
    return phi - 0.1 * residual(phi, theta, data)


def step_in_place(phi: Tensor, theta: Tensor, data: Tensor) -> Tensor:
    phi -= 0.1 * residual(phi.clone(), theta, data)
    return phi


@pytest.mark.parametrize(
    "estimator", [mf.Explicit(), mf.Explicit(checkpoint=True), mf.Truncated(3), mf.Binomial(3)], ids=repr
)
def test_a_step_in_place(estimator: mf.Estimator) -> None:
    right = mf.Explicit()(mf.iterates(steps=3)(step))
    adapt = estimator(mf.iterates(steps=3)(step_in_place))
    theta = THETA.clone()
    close(adapt(theta, DATA), right(THETA, DATA), 1e-14)
    assert torch.equal(theta, THETA)
    loss = lambda way: lambda t: (way(t, DATA) ** 2).sum()  # noqa: E731
    close(grad(loss(adapt))(theta), grad(loss(right))(THETA), 1e-13)


def without_grad(phi: Any, theta: Any, data: Tensor) -> Any:
    with torch.no_grad():
        return step(phi, theta, data)


def detached(phi: Tensor, theta: Tensor, data: Tensor) -> Tensor:
    return step(phi.detach(), theta, data)


def half_detached(phi: dict[str, Tensor], theta: Any, data: Tensor) -> dict[str, Tensor]:
    return {"a": phi["a"] * 0.9, "b": phi["b"].detach() * 0.9}


def by_numpy(phi: Tensor, theta: Tensor, data: Tensor) -> Tensor:
    return torch.from_numpy(0.9 * phi.detach().numpy())


LOST = {
    "no_grad": (without_grad, THETA, "without_grad: expected a step whose outcome depends differentiably on phi, got one that uses phi at ."),
    "detach": (detached, THETA, "remove no_grad(), detach() and numpy from the step"),
    "detach of a part": (half_detached, {"a": THETA, "b": THETA}, "got one that uses phi at ['b'] without"),
    "numpy": (by_numpy, THETA, "by_numpy: expected a step that can be differentiated"),
}  # fmt: skip
FOLLOWING = [
    mf.Explicit(),
    mf.Truncated(2),
    mf.Binomial(2),
    mf.Implicit(mf.GMRES()),
    mf.Explicit(checkpoint=True),
]


@pytest.mark.parametrize(("fn", "theta", "text"), LOST.values(), ids=LOST)
@pytest.mark.parametrize("estimator", FOLLOWING, ids=repr)
def test_a_step_that_lost_its_graph(estimator: mf.Estimator, fn: Any, theta: Any, text: str) -> None:
    adapt = estimator(mf.iterates(steps=2)(fn))
    adapt(theta, DATA)  # nothing is differentiated yet
    with pytest.raises((mf.ZeroGradientError, TypeError)) as caught:
        grad(lambda t: sum((x**2).sum() for x in tree.leaves(adapt(t, DATA))))(theta)
    assert text.lower() in str(caught.value).lower()
    leaf = tree.map(lambda x: x.clone().requires_grad_(), theta)
    with pytest.raises((mf.ZeroGradientError, TypeError)):
        sum((x**2).sum() for x in tree.leaves(adapt(leaf, DATA))).backward()


def test_a_step_that_needs_no_phi() -> None:
    """A closed form of theta is a step as good as any."""
    adapt = mf.Explicit()(mf.iterates(steps=1)(lambda phi, theta, data: (theta + data) / (A + 1)))
    close(grad(lambda t: adapt(t, DATA).sum())(THETA), GRADIENT, 1e-14)
