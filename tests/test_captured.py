"""Tensors that a loss reaches on the side: the gradient to them is that of the same tensor given as an argument."""

from __future__ import annotations

import contextvars
import functools
import gc
import os
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap

import metafunc as mf
from tests.tasks import close

K, LR, TASKS = 3, 0.1, 2
Loss = Callable[[Tensor, Any], Tensor]


def _draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y, Q = _draw(TASKS, 6, 3, seed=1), _draw(TASKS, 6, seed=2), _draw(TASKS, 3, seed=3)
THETA, SCALE = _draw(3, seed=4), torch.tensor(0.7, dtype=torch.float64)


class Times(torch.autograd.Function):
    """A product whose derivative is somebody's own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return a * b

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        a, b = ctx.saved_tensors
        return slope * b, slope * a

    @staticmethod
    def jvp(ctx: Any, da: Tensor, db: Tensor) -> Any:
        a, b = ctx.saved_tensors
        return (0 if da is None else da * b) + (0 if db is None else db * a)


USES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": lambda s, e: s * e.square().mean(),
    "linear": lambda s, e: F.linear(e.square().mean()[None], s.reshape(1, 1)).sum(),
    "cat": lambda s, e: torch.cat([s[None], e.square().mean()[None]]).prod(),
    "list": lambda s, e: torch.einsum(
        "i,i->", [torch.stack([s, s]), torch.stack([e.square().mean() / 2] * 2)]
    ),
    "scatter": lambda s, e: torch.select_scatter(e.square().mean().expand(2), s, 0, 0).prod(),
    "function": lambda s, e: Times.apply(s, e.square().mean()),  # type: ignore[no-untyped-call]
    "inner vmap": lambda s, e: vmap(lambda r: s * r**2)(e).mean(),
    "inner grad": lambda s, e: grad(lambda m: s * m**2 / 2)(e.square().mean()),
    "exponent": lambda s, e: (1 + e.square().mean()) ** s,
    "attribute": lambda s, e: s.reshape(1, 1).T.sum() * e.square().mean(),
}
"""Ways in which an operator may meet the tensor."""


class Box:
    """An object with a tensor, a method, and a call."""

    shared: Tensor | None = None

    def __init__(self, scale: Tensor, use: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.scale, self.use = scale, use

    def loss(self, phi: Tensor, batch: Any) -> Tensor:
        x, y = batch
        return self.use(self.scale, x @ phi - y)

    __call__ = loss

    @property
    def learned(self) -> Tensor:
        return self.scale


def _holders() -> dict[str, Callable[[Tensor, Callable[[Tensor, Tensor], Tensor]], Loss]]:
    def with_scale(get: Callable[[], Tensor], use: Callable[[Tensor, Tensor], Tensor]) -> Loss:
        return lambda phi, batch: use(get(), batch[0] @ phi - batch[1])

    def module(scale: Tensor, use: Any) -> Loss:
        box = nn.Module()
        box.scale = scale  # type: ignore[assignment]
        return with_scale(lambda: box.scale, use)  # type: ignore[return-value, arg-type]

    def buffer(scale: Tensor, use: Any) -> Loss:
        box = nn.Module()
        box.register_buffer("scale", scale)
        return with_scale(lambda: dict(box.named_buffers())["scale"], use)

    def default(scale: Tensor, use: Any) -> Loss:
        def loss(phi: Tensor, batch: Any, held: Tensor = scale) -> Tensor:
            return use(held, batch[0] @ phi - batch[1])

        return loss

    def helper(scale: Tensor, use: Any) -> Loss:
        def weigh(error: Tensor) -> Tensor:
            return use(scale, error)

        return lambda phi, batch: weigh(batch[0] @ phi - batch[1])

    def context(scale: Tensor, use: Any) -> Loss:
        variable: contextvars.ContextVar[Tensor] = contextvars.ContextVar("scale")
        variable.set(scale)
        return with_scale(variable.get, use)

    def local(scale: Tensor, use: Any) -> Loss:
        storage = threading.local()
        storage.scale = scale
        return with_scale(lambda: storage.scale, use)

    def of_class(scale: Tensor, use: Any) -> Loss:
        kind = type("Kind", (), {"shared": scale})
        return with_scale(lambda: kind.shared, use)  # type: ignore[attr-defined]

    def iterator(scale: Tensor, use: Any) -> Loss:
        def forever() -> Iterator[Tensor]:
            while True:
                yield scale

        running = forever()
        return with_scale(lambda: next(running), use)

    return {
        "closure": lambda s, use: with_scale(lambda: s, use),
        "module": module,
        "buffer": buffer,
        "dict": lambda s, use: (lambda d: with_scale(lambda: d["scale"], use))({"scale": s}),
        "nested": lambda s, use: (lambda d: with_scale(lambda: d["a"][0][1], use))({"a": [(0, s)]}),
        "partial": lambda s, use: functools.partial(lambda h, phi, b: use(h, b[0] @ phi - b[1]), s),
        "bound method": lambda s, use: Box(s, use).loss,
        "callable": Box,
        "property": lambda s, use: (lambda box: with_scale(lambda: box.learned, use))(Box(s, use)),
        "class": of_class,
        "namespace": lambda s, use: (lambda n: with_scale(lambda: n.scale, use))(
            types.SimpleNamespace(scale=s)
        ),
        "default": default,
        "helper": helper,
        "context": context,
        "local": local,
        "iterator": iterator,
    }


HOLDERS = _holders()
EXACT = (
    mf.Explicit(),
    mf.Explicit(checkpoint=True),
    mf.Explicit(checkpoint=2),
    mf.Truncated(K),
    mf.Binomial(K),
)
BIASED = (mf.Truncated(1), mf.Binomial(1), mf.Binomial(2), mf.Binomial(1, window=2))
IMPLICIT = mf.Implicit(mf.CG(max_steps=10, rtol=1e-14))
SOLVED = (IMPLICIT, mf.Implicit(mf.Direct()), mf.FiniteDifference())


def outer(phi: Tensor, query: Tensor) -> Tensor:
    return (phi - query).square().sum()


@dataclass(frozen=True)
class Program:
    """A loss that reaches a scale in some way, and how its tasks are run."""

    holder: str
    use: str
    estimator: mf.Estimator
    batching: str

    def inner(self, loss: Loss) -> mf.Inner:
        solved = self.estimator in SOLVED
        return mf.gradient_descent(loss, lr=LR, steps=150 if solved else K, prox=1.0 if solved else 0.0)

    def captured(self, scale: Tensor) -> Tensor:
        """The mean outer loss where the loss has captured the scale."""

        def one(scale: Tensor, x: Tensor, y: Tensor, q: Tensor) -> Tensor:
            adapt = self.estimator(self.inner(HOLDERS[self.holder](scale, USES[self.use])))
            return outer(adapt(THETA, (x, y)), q)

        return self._batched(one, scale)

    def given(self, scale: Tensor) -> Tensor:
        """The same where the scale is a part of the data."""

        def one(scale: Tensor, x: Tensor, y: Tensor, q: Tensor) -> Tensor:
            adapt = self.estimator(self.inner(lambda phi, b: USES[self.use](b[2], b[0] @ phi - b[1])))
            return outer(adapt(THETA, (x, y, scale)), q)

        return self._batched(one, scale)

    def _batched(self, one: Any, scale: Tensor) -> Tensor:
        if self.batching == "one":
            return one(scale, X[0], Y[0], Q[0])
        if self.batching == "loop":
            return sum(one(scale, *task) for task in zip(X, Y, Q, strict=True)) / TASKS  # type: ignore[return-value]
        if self.batching == "shared":
            return vmap(one, in_dims=(None, 0, 0, 0))(scale, X, Y, Q).mean()
        return vmap(one)(scale * torch.tensor([1.0, 1.3], dtype=torch.float64), X, Y, Q).mean()

    def by_hand(self, scale: Tensor) -> Tensor:
        """Plain autograd through plain steps."""
        factors = (1.0, 1.3) if self.batching == "mapped" else (1.0, 1.0)
        total = torch.zeros((), dtype=torch.float64)
        tasks = list(zip(factors, X, Y, Q, strict=True))[: 1 if self.batching == "one" else None]
        for factor, x, y, q in tasks:
            phi = THETA.clone().requires_grad_()
            for _ in range(K):
                loss = USES[self.use](factor * scale, x @ phi - y)
                phi = phi - LR * torch.autograd.grad(loss, phi, create_graph=True)[0]
            total = total + outer(phi, q)
        return total / len(tasks)


def eagerly(fn: Callable[[Tensor], Tensor]) -> Tensor:
    leaf = SCALE.clone().requires_grad_()
    found = torch.autograd.grad(fn(leaf), leaf, allow_unused=True)[0]
    assert found is not None, "the gradient is lost"
    return found


TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor]], Tensor]] = {
    "backward": eagerly,
    "grad": lambda f: grad(f)(SCALE),
    "jacrev": lambda f: jacrev(f)(SCALE),
    "jvp": lambda f: jvp(f, (SCALE,), (torch.ones_like(SCALE),))[1],
    "vmap of grad": lambda f: vmap(grad(f))(torch.stack([SCALE, 1.1 * SCALE])),
    "hessian": lambda f: hessian(f)(SCALE),
    "backward of grad": lambda f: eagerly(grad(f)),
}
SECOND = ("hessian", "backward of grad")


@st.composite
def programs(draw: Any) -> tuple[Program, str]:
    transform = draw(st.sampled_from(sorted(TRANSFORMS)))
    estimators = EXACT if transform in SECOND else (*EXACT, *BIASED, *SOLVED)
    estimator = draw(st.sampled_from(estimators))
    if transform == "jvp" and isinstance(estimator, mf.FiniteDifference):
        estimator = IMPLICIT
    program = Program(
        draw(st.sampled_from(sorted(HOLDERS))),
        draw(st.sampled_from(sorted(USES))),
        estimator,
        draw(st.sampled_from(["one", "loop", "shared", "mapped"])),
    )
    return program, transform


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@settings(
    max_examples=int(os.environ.get("METAFUNC_EXAMPLES", "120")),
    deadline=None,
    derandomize="METAFUNC_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(programs())
def test_a_captured_tensor_counts_as_an_argument(drawn: tuple[Program, str]) -> None:
    program, transform = drawn
    derivative = TRANSFORMS[transform]
    found, expected = derivative(program.captured), derivative(program.given)
    assert expected.norm() > 1e-4
    close(found, expected, 1e-6 if isinstance(program.estimator, mf.FiniteDifference) else 1e-9)
    if program.estimator in EXACT and transform in ("backward", "hessian"):
        by_hand = eagerly(program.by_hand) if transform == "backward" else _second(program.by_hand)
        close(found, by_hand, 1e-9)


@pytest.mark.parametrize("batching", ["one", "loop", "shared", "mapped"])
@pytest.mark.parametrize("estimator", EXACT, ids=repr)
def test_every_way_to_batch_by_hand(estimator: mf.Estimator, batching: str) -> None:
    """Nothing but the captured tensor is differentiated, so that only it tells that the path is recorded."""
    program = Program("closure", "product", estimator, batching)
    close(eagerly(program.captured), eagerly(program.by_hand), 1e-9)
    close(grad(program.captured)(SCALE), eagerly(program.by_hand), 1e-9)


def _second(fn: Callable[[Tensor], Tensor]) -> Tensor:
    leaf = SCALE.clone().requires_grad_()
    first = torch.autograd.grad(fn(leaf), leaf, create_graph=True)[0]
    return torch.autograd.grad(first, leaf)[0]


def squares(phi: Tensor, batch: Any) -> Tensor:
    return (batch[0] @ phi - batch[1]).square().mean()


@pytest.mark.parametrize("estimator", [*EXACT, IMPLICIT], ids=repr)
def test_another_tensor_in_the_same_place_is_noticed(estimator: mf.Estimator) -> None:
    """What was captured in the first call says nothing about the next one."""
    held: dict[str, Tensor] = {"scale": SCALE}
    solved = estimator is IMPLICIT
    adapt = estimator(
        mf.gradient_descent(
            lambda phi, b: held["scale"] * squares(phi, b),
            lr=LR,
            steps=150 if solved else K,
            prox=float(solved),
        )
    )

    def value(scale: Tensor) -> Tensor:
        held["scale"] = scale
        return outer(adapt(THETA, (X[0], Y[0])), Q[0])

    expected = Program("closure", "product", estimator, "one").given
    value(SCALE)  # nothing is differentiated
    keep = []  # so that a later tensor has another identity
    for factor in (1.0, 1.2):
        close(grad(value)(factor * SCALE), grad(expected)(factor * SCALE), 1e-9)
        leaf = (factor * SCALE).requires_grad_()
        keep.append(leaf)
        close(torch.autograd.grad(value(leaf), leaf)[0], grad(expected)(factor * SCALE), 1e-9)
        both = torch.stack([SCALE, factor * SCALE])
        close(vmap(grad(value))(both), vmap(grad(expected))(both), 1e-9)
    parameter = nn.Parameter(SCALE.clone(), requires_grad=False)
    value(parameter)
    parameter.requires_grad_(True)
    close(torch.autograd.grad(value(parameter), parameter)[0], grad(expected)(SCALE), 1e-9)


def test_another_tensor_in_a_declared_objective_is_noticed() -> None:
    """The objective of a black box is evaluated in the backward pass alone."""
    held: dict[str, Tensor] = {"s": SCALE}
    x, y = X[0], Y[0]

    def solution(s: Tensor, theta: Tensor) -> Tensor:
        return torch.linalg.solve(x.T @ x / 3 + 2 * s * torch.eye(3), x.T @ y / 3 + 2 * s * theta)

    @mf.Implicit(mf.Direct())
    @mf.minimizes(lambda phi, theta: squares(phi, (x, y)) + held["s"] * (phi - theta).square().sum())
    def adapt(theta: Tensor) -> Tensor:
        return solution(held["s"].detach(), theta)

    keep = []
    for factor in (1.0, 1.5, 2.0):
        held["s"] = (factor * SCALE).requires_grad_()
        keep.append(held["s"])
        expected = grad(lambda s: outer(solution(s, THETA), Q[0]))(held["s"].detach())
        close(torch.autograd.grad(outer(adapt(THETA), Q[0]), held["s"])[0], expected, 1e-9)


@pytest.mark.parametrize("estimator", [mf.Explicit(), mf.Truncated(K), mf.Binomial(K)], ids=repr)
def test_the_rest_of_a_module(estimator: mf.Estimator) -> None:
    """Adapting the head through a partial dict of parameters: the body, which the loss closes over, is learned too."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x, y = _draw(TASKS, 6, 3, seed=5), _draw(TASKS, 6, 1, seed=6)

    def loss(params: Any, batch: Any) -> Tensor:
        return F.mse_loss(functional_call(net, params, (batch[0],)), batch[1])

    head = {name: p for name, p in net.named_parameters() if name.startswith("2")}
    total = torch.zeros(())
    for a, b in zip(x, y, strict=True):
        phi = head
        for _ in range(K):
            slopes = torch.autograd.grad(loss(phi, (a, b)), list(phi.values()), create_graph=True)
            phi = {n: p - 0.3 * g for (n, p), g in zip(phi.items(), slopes, strict=True)}
        total = total + loss(phi, (a, b))
    expected = torch.autograd.grad(total, list(net.parameters()))
    adapt = estimator(mf.gradient_descent(loss, lr=0.3, steps=K))
    mapped = vmap(lambda a, b: loss(adapt(head, (a, b)), (a, b)))(x, y).sum()
    looped = sum(loss(adapt(head, task), task) for task in zip(x, y, strict=True))
    for value in (mapped, looped):
        for found, right in zip(torch.autograd.grad(value, list(net.parameters())), expected, strict=True):  # type: ignore[arg-type]
            close(found, right, 1e-9)


@pytest.mark.parametrize("tasks", [mf.Vmap(), mf.Vmap(chunk=1), mf.Loop()], ids=repr)
@pytest.mark.parametrize("recorded", [True, False])
def test_through_meta_grad(tasks: mf.Vmap | mf.Loop, recorded: bool) -> None:
    """Inner and outer loss share a captured tensor; the value of meta_grad has its gradient, whether or not theta is
    differentiated as well."""
    scale, theta = SCALE.clone().requires_grad_(), THETA.clone().requires_grad_(recorded)
    adapt = mf.Truncated(K)(mf.gradient_descent(lambda p, b: scale * squares(p, b), lr=LR, steps=K))
    result = mf.meta_grad(lambda phi, q: scale * outer(phi, q), adapt, tasks=tasks)(theta, (X, Y), Q)

    def by_hand(s: Tensor) -> Tensor:
        return s * Program("closure", "product", mf.Truncated(K), "loop").given(s)

    close(torch.autograd.grad(result.value, scale, retain_graph=True)[0], grad(by_hand)(SCALE), 1e-9)
    mixed = torch.autograd.grad(result.grad.square().sum(), scale)[0]

    def slope(s: Tensor) -> Tensor:
        def mean(t: Tensor) -> Tensor:
            loss = lambda p, b: b[2] * squares(p, b)  # noqa: E731
            a = mf.Explicit()(mf.gradient_descent(loss, lr=LR, steps=K))
            return sum(s * outer(a(t, (x, y, s)), q) for x, y, q in zip(X, Y, Q, strict=True)) / TASKS  # type: ignore[return-value]

        return grad(mean)(THETA).square().sum()

    close(mixed, grad(slope)(SCALE), 1e-9)


def test_declared_functions() -> None:
    """An objective of @minimizes, a residual of @solves, a step of @iterates, a setting, and an initialisation."""
    held = {"s": SCALE.clone().requires_grad_()}
    x, y, q = X[0], Y[0], Q[0]

    def solution(s: Tensor) -> Tensor:
        return torch.linalg.solve(x.T @ x / 3 + 2 * s * torch.eye(3), x.T @ y / 3 + 2 * s * THETA)

    def objective(phi: Tensor, theta: Tensor) -> Tensor:
        return squares(phi, (x, y)) + held["s"] * (phi - theta).square().sum()

    minimum = mf.Implicit(mf.Direct())(mf.minimizes(objective)(lambda theta: solution(held["s"].detach())))
    root = mf.Implicit(mf.GMRES(rtol=1e-13))(
        mf.solves(grad(objective))(lambda theta: solution(held["s"].detach()))
    )
    expected = grad(lambda s: outer(solution(s), q))(SCALE)
    for adapt in (minimum, root):
        close(torch.autograd.grad(outer(adapt(THETA), q), held["s"])[0], expected, 1e-8)

    def descent(s: Tensor, start: Tensor) -> Tensor:
        phi = start
        for _ in range(K):
            phi = phi - s * grad(squares)(phi, (x, y))
        return phi

    step = mf.Truncated(K)(
        mf.iterates(steps=K)(lambda phi, theta: phi - held["s"] * grad(squares)(phi, (x, y)))
    )
    rate = mf.Truncated(K)(mf.gradient_descent(squares, lr=lambda theta: held["s"], steps=K))
    expected = grad(lambda s: outer(descent(s, THETA), q))(SCALE)
    for value in (step(THETA), rate(THETA, (x, y))):
        close(torch.autograd.grad(outer(value, q), held["s"])[0], expected, 1e-9)
    start = mf.Truncated(K)(
        mf.gradient_descent(squares, lr=LR, steps=K, init=lambda theta: held["s"] * theta)
    )
    expected = grad(lambda s: outer(descent(torch.tensor(LR), s * THETA), q))(SCALE)
    close(torch.autograd.grad(outer(start(THETA, (x, y)), q), held["s"])[0], expected, 1e-9)


@pytest.mark.parametrize(
    "estimator", [mf.FirstOrder(), mf.Truncated(0), mf.Binomial(0), mf.Reptile()], ids=repr
)
def test_what_an_estimator_cannot_reach_is_refused(estimator: mf.Estimator) -> None:
    scale = SCALE.clone().requires_grad_()
    adapt = estimator(mf.gradient_descent(lambda p, b: scale * squares(p, b), lr=LR, steps=K))
    with pytest.raises(
        mf.ZeroGradientError, match=r"a captured tensor, float64.* zero gradient by construction"
    ):
        outer(adapt(THETA, (X[0], Y[0])), Q[0]).backward()
    with torch.no_grad():
        adapt(THETA, (X[0], Y[0]))


def test_what_torch_shows_to_nobody_is_refused() -> None:
    """A scripted function, which no mode sees into, and which has captured a parameter."""
    module = nn.Linear(3, 1, bias=False).double()
    with pytest.warns(DeprecationWarning, match="jit"):
        scripted = torch.jit.trace(module, torch.zeros(2, 3, dtype=torch.float64))  # type: ignore[no-untyped-call]
    loss = lambda phi, b: scripted(b[0] * phi).square().mean()  # noqa: E731
    with pytest.raises(mf.ZeroGradientError, match="captured tensors can be seen as operands"):
        mf.Truncated(1)(mf.gradient_descent(loss, lr=LR, steps=1))(THETA, (X[0], Y[0]))


class Weights(NamedTuple):
    w: Tensor


w = torch.ones(3, dtype=torch.float64, requires_grad=True)


def test_a_name_in_common_is_nothing() -> None:
    """A global that is differentiated and has the name of an attribute is no captured tensor."""
    loss = lambda phi, b: squares(phi.w, b)  # noqa: E731
    adapt = mf.Truncated(K)(mf.gradient_descent(loss, lr=LR, steps=K))
    found = grad(lambda t: outer(adapt(Weights(t), (X[0], Y[0])).w, Q[0]))(THETA)
    plain = mf.Explicit()(mf.gradient_descent(squares, lr=LR, steps=K))
    close(found, grad(lambda t: outer(plain(t, (X[0], Y[0])), Q[0]))(THETA), 1e-10)


def test_nothing_is_kept_alive() -> None:
    """An inner problem remembers captured tensors without keeping them."""
    held: dict[str, Tensor | None] = {}
    adapt = mf.Truncated(K)(
        mf.gradient_descent(lambda p, b: held["s"] * squares(p, b), lr=LR, steps=K)  # type: ignore[operator]
    )
    held["s"] = SCALE.clone().requires_grad_()
    outer(adapt(THETA, (X[0], Y[0])), Q[0]).backward()
    seen = weakref.ref(held["s"])
    gc.collect()
    held["s"] = None
    assert seen() is None


def test_later_calls_look_at_nothing_twice() -> None:
    """The first call evaluates the loss once more; later ones do not."""
    calls: list[int] = []

    def loss(phi: Tensor, batch: Any) -> Tensor:
        calls.append(1)
        return squares(phi, batch)

    adapt = mf.FirstOrder()(mf.gradient_descent(loss, lr=LR, steps=K))
    counts = []
    for _ in range(3):
        calls.clear()
        grad(lambda t: outer(adapt(t, (X[0], Y[0])), Q[0]))(THETA)
        counts.append(len(calls))
    assert counts == [K + 1, K, K]


def test_what_is_asked_of_a_tensor_is_no_dependence() -> None:
    """The device, the shape or the number of a parameter, which a loss may read without a derivative."""
    parameter = nn.Parameter(torch.ones(3))

    def loss(phi: Tensor, batch: Any) -> Tensor:
        assert parameter.shape == (3,) and parameter.numel() == 3
        return squares(phi, batch) * torch.ones((), device=parameter.device) * parameter.dim()

    adapt = mf.FirstOrder()(mf.gradient_descent(loss, lr=LR, steps=K))
    outer(adapt(THETA.clone().requires_grad_(), (X[0], Y[0])), Q[0]).backward()
    assert parameter.grad is None
