"""Forward derivatives by every way that torch has, and torch.compile around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import hessian, jvp, linearize, vmap

import metafunc as mf
from tests.tasks import close

STEPS, LR = 2, 0.1
SEED = torch.Generator().manual_seed(0)
X, Y, XQ, YQ, THETA, DIRECTION = (
    torch.randn(shape, generator=SEED, dtype=torch.float64)
    for shape in ((6, 3), (6,), (6, 3), (6,), (3,), (3,))
)
ESTIMATORS = [
    mf.Explicit(),
    mf.Explicit(checkpoint=True),
    mf.Truncated(2),
    mf.Truncated(1),
    mf.Binomial(2),
    mf.FirstOrder(),
    mf.Implicit(mf.Direct()),
]


def loss(phi: Tensor, batch: Any) -> Tensor:
    return (torch.tanh(batch[0] @ phi) - batch[1]).square().mean()


def value_of(estimator: mf.Estimator) -> Callable[[Tensor], Tensor]:
    solved = isinstance(estimator, mf.Implicit)
    adapt = estimator(mf.gradient_descent(loss, lr=LR, steps=30 if solved else STEPS, prox=float(solved)))
    return lambda theta: loss(adapt(theta, (X, Y)), (XQ, YQ))


def exact() -> tuple[Tensor, Tensor]:
    """Gradient and Hessian through the steps, by plain autograd."""
    start = phi = THETA.clone().requires_grad_()
    for _ in range(STEPS):
        phi = phi - LR * torch.autograd.grad(loss(phi, (X, Y)), phi, create_graph=True)[0]
    slope = torch.autograd.grad(loss(phi, (XQ, YQ)), start, create_graph=True)[0]
    return slope.detach(), torch.stack([torch.autograd.grad(s, start, retain_graph=True)[0] for s in slope])


def by_dual_numbers(fn: Callable[[Tensor], Tensor]) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(fn(forward_ad.make_dual(THETA, DIRECTION))).tangent  # type: ignore[return-value]


WAYS: dict[str, Callable[[Callable[[Tensor], Tensor]], Tensor]] = {
    "jvp": lambda f: jvp(f, (THETA,), (DIRECTION,))[1],
    "mapped": lambda f: vmap(lambda d: jvp(f, (THETA,), (d,))[1])(torch.stack([DIRECTION, THETA]))[0],
    "linearize": lambda f: linearize(f, THETA)[1](DIRECTION),
    "dual numbers": by_dual_numbers,
}


@pytest.mark.filterwarnings("ignore")  # those of torch's own tracer
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_every_way_gives_one_derivative(estimator: mf.Estimator) -> None:
    """That of reverse mode, which the composition matrix holds against independent references."""
    fn = value_of(estimator)
    expected = torch.func.grad(fn)(THETA) @ DIRECTION
    for way in WAYS.values():
        close(way(fn), expected, 1e-9)
    if isinstance(estimator, mf.Explicit):
        close(expected, exact()[0] @ DIRECTION, 1e-10)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", [mf.Explicit(), mf.Truncated(2)], ids=repr)
def test_compiled(estimator: mf.Estimator) -> None:
    """A Hessian in forward over reverse mode is traced without torch's own note of the level."""
    fn = value_of(estimator)
    slope, second = exact()
    for backend in ("eager", "aot_eager"):
        torch._dynamo.reset()
        along = torch.compile(lambda t: jvp(fn, (t,), (DIRECTION,))[1], backend=backend)(THETA)
        close(along, slope @ DIRECTION, 1e-9)
    torch._dynamo.reset()
    close(torch.compile(hessian(fn), backend="eager")(THETA), second, 1e-9)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("estimator", "tasks"),
    [
        (mf.Explicit(), mf.Vmap()),
        (mf.Truncated(1), mf.Loop()),
        (mf.Truncated(1), None),
        pytest.param(mf.Implicit(mf.CG(3)), mf.Vmap(), marks=pytest.mark.exhaustive),
        pytest.param(mf.Implicit(mf.CG(3)), mf.Loop(), marks=pytest.mark.exhaustive),
    ],
    ids=repr,
)
def test_meta_grad_compiled(estimator: mf.Estimator, tasks: Any) -> None:
    solved = isinstance(estimator, mf.Implicit)
    adapt = estimator(mf.gradient_descent(loss, lr=LR, steps=3, prox=float(solved)))
    f = mf.meta_grad(loss, adapt, tasks=tasks)
    data = [(X, Y), (XQ, YQ)] if tasks is None else [(X[None], Y[None]), (XQ[None], YQ[None])]
    theta = {"phi": THETA, "count": torch.tensor(3)}
    f = mf.meta_grad(loss, adapt, tasks=tasks)
    expected = f(THETA, *data)
    torch._dynamo.reset()
    found = torch.compile(f, backend="aot_eager", fullgraph=True)(THETA, *data)
    close(found.grad, expected.grad, 1e-12)
    close(found.phi, expected.phi, 1e-12)
    assert set(found.stats) == set(expected.stats)
    assert found.aux is None
    # A leaf that is not floating has no gradient.
    inner = mf.gradient_descent(loss, lr=LR, steps=2, init=lambda t: t["phi"], prox=float(solved))
    g = mf.meta_grad(loss, estimator(inner), tasks=tasks)
    torch._dynamo.reset()
    whole = torch.compile(lambda t, s, q: g(t, s, q).grad["phi"], backend="aot_eager", fullgraph=True)
    close(whole(theta, *data), g(theta, *data).grad["phi"], 1e-12)


def test_a_captured_parameter_is_refused_in_compiled_code() -> None:
    scale = torch.tensor(0.7, requires_grad=True)
    adapt = mf.Truncated(1)(mf.gradient_descent(lambda p, b: scale * loss(p, b), lr=LR, steps=1))
    torch._dynamo.reset()
    with pytest.raises(Exception) as caught:  # noqa: PT011  (torch.compile wraps it in one of its own)
        torch.compile(lambda t: loss(adapt(t, (X, Y)), (X, Y)), backend="aot_eager", fullgraph=True)(THETA)
    error: BaseException | None = caught.value
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    assert any(
        "got one that captured float64[] on cpu, a tensor that requires a gradient" in t for t in texts
    )
