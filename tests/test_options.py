"""Options of the wrong kind or out of range: every option of the package is refused at once, by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import metafunc as mf
from metafunc import options
from metafunc.linear.preconditioner import Function
from metafunc.linear.solver import Foreign
from metafunc.plug import Plug


def loss(phi: Tensor, x: Tensor) -> Tensor:
    return ((phi - x) ** 2).sum()


def objective(phi: Tensor, theta: Tensor, x: Tensor) -> Tensor:
    return loss(phi, x) + ((phi - theta) ** 2).sum()


NET = torch.nn.Linear(1, 1)
THETA = torch.ones(2)
DESCENT = {"loss": loss, "lr": 0.1, "steps": 2}
INNER = mf.gradient_descent(**DESCENT)


class Call(NamedTuple):
    """Something with options: what it is given beside the one that is tried, and which of them are no options."""

    fn: Callable[..., Any]
    given: dict[str, Any]
    others: tuple[str, ...] = ()
    """Data and the like, which have checks of their own."""


CALLS = [
    Call(mf.gradient_descent, DESCENT),
    Call(mf.adam, DESCENT),
    Call(mf.nesterov, {"loss": loss, "smoothness": 1.0, "strong_convexity": 0.5, "steps": 2}),
    Call(mf.newton_cg, {"loss": loss}),
    Call(mf.optimizer_loop, {"loss": loss, "optimizer": torch.optim.LBFGS, "steps": 2}),
    Call(mf.minimizes, {"objective": objective}),
    Call(mf.solves, {"residual": objective}),
    Call(mf.iterates, {"steps": 2}),
    Call(mf.Composed, {"model": loss, "criterion": loss}),
    Call(mf.meta_grad, {"outer": loss, "adapt": mf.Explicit()(INNER)}),
    Call(mf.functional, {"module": NET, "loss_fn": F.mse_loss}),
    Call(
        mf.compare,
        {"outer": loss, "inner": INNER, "theta": THETA, "estimators": [mf.FirstOrder()], "repeats": 1},
        ("theta", "data_and_query"),
    ),
    Call(mf.with_step_keys, {}),
    Call(mf.with_hessian_batch, {}),
    Call(mf.peak_memory, {"fn": list}),
    Call(mf.nets.conv4, {"ways": 2}),
    Call(mf.bounds.lipschitz, {"estimator": mf.FirstOrder(), "reach": 0.5, "steps": 2}),
    Call(mf.bounds.convex, {"estimator": mf.FirstOrder(), "reach": 0.5, "steps": 2}),
    Call(
        mf.bounds.strongly_convex,
        {"estimator": mf.FirstOrder(), "reach": 0.5, "steps": 2, "least": 0.1, "last": 1},
    ),
    Call(mf.bayes.Elbo, {"loss": loss}),
    Call(
        mf.bayes.noise, {"params": THETA, "samples": 2, "generator": torch.Generator(), "tasks": 2}, ("params",)
    ),
    Call(mf.data.Sinusoids, {}, ("device",)),
    Call(mf.data.Quadratics, {}, ("device",)),
    Call(mf.data.LinearRegression, {}, ("device",)),
    Call(
        lambda lr, beta: mf.optim.NormalizedGD(NET.parameters(), lr, beta), {"lr": 0.1, "beta": 1.0}
    ),
    Call(lambda lr, clip: mf.optim.ClippedGD(NET.parameters(), lr, clip), {"lr": 0.1, "clip": 1.0}),
]  # fmt: skip
NEEDED: dict[type, dict[str, Any]] = {
    mf.Binomial: {"order": 2},
    mf.Truncated: {"depth": 2},
    mf.Diagonal: {"of": THETA},
    Foreign: {"fn": loss},
    Function: {"fn": loss},
}


def plugs(kind: type = Plug) -> Iterator[type]:
    """Every concrete plug of the package."""
    for below in kind.__subclasses__():
        yield from plugs(below)
    if kind.__module__.startswith("metafunc") and not inspect.isabstract(kind) and kind is not Plug:
        yield kind


def with_options() -> list[Call]:
    """Everything that has options. (A class with slots is made twice, of which the first is a leftover.)"""
    found = {kind.__qualname__: Call(kind, NEEDED.get(kind, {})) for kind in plugs()}
    return [*found.values(), *CALLS]


def options_of(call: Call) -> dict[str, Any]:
    """The options by name, with their types in words."""
    if is_dataclass(call.fn):
        found = {field.name: str(field.type) for field in fields(call.fn) if field.init}
    else:
        found = {p.name: str(p.annotation) for p in inspect.signature(call.fn).parameters.values()}
    return {name: kind for name, kind in found.items() if name not in call.others}


def wrong(kind: str) -> Iterator[Any]:
    """Values of other kinds than an annotation says."""
    yield object()
    if "Any" in kind or kind == "<class 'inspect._empty'>":
        return
    words = kind.replace("[", " ").replace("]", " ").replace(",", " ").split()
    if "str" not in words and "Tree" not in words:
        yield "a word"
    if "Setting" in words:
        yield True
        yield [0.1, "a word"]
    elif "bool" not in words:
        yield True
    elif "int" not in words:
        yield 1
        yield None
    if "int" in words and "float" not in words:
        yield 1.5
    if "int" in words or "float" in words:
        yield torch.tensor(1.0)
        yield 1j
        if "None" not in words:
            yield None
    if "float" in words:
        yield float("nan")
    if "Literal" in words:
        yield 1


ALL = [
    pytest.param(call, name, value, id=f"{getattr(call.fn, '__name__', call.fn)}({name}={str(value)[:12]})")
    for call in with_options()
    for name, kind in options_of(call).items()
    for value in wrong(kind)
]


@pytest.mark.parametrize(("call", "name", "value"), ALL)
def test_a_value_of_another_kind_is_refused_by_name(call: Call, name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        call.fn(**{**call.given, name: value})
    text = str(caught.value)
    where = caught.traceback[-1].path
    assert "metafunc" in str(where), f"not said by the package: {text}"
    assert name in text or getattr(call.fn, "__name__", "?") in text
    assert "expected" in text
    assert ", got " in text


def test_every_plug_is_tried() -> None:
    names = {call.fn.__name__ for call in with_options() if isinstance(call.fn, type)}
    assert {"CG", "GMRES", "MINRES", "Neumann", "Direct", "Jacobi", "Vmap", "Exact", "Binomial"} <= names
    assert len(ALL) > 300


@pytest.mark.parametrize("make", [call for call in with_options() if call.fn is not mf.compare])
def test_what_the_others_are_given_is_right(make: Call) -> None:
    if make.given or isinstance(make.fn, type):
        make.fn(**make.given)


def test_numbers_of_numpy_are_numbers() -> None:
    assert mf.Truncated(np.int64(2)).depth == 2
    x = torch.ones(2)
    for number in (np.float32(0.5), np.float64(0.5)):
        inner = mf.gradient_descent(loss, lr=number, prox=number, momentum=number, steps=2)
        same = mf.gradient_descent(loss, lr=0.5, prox=0.5, momentum=0.5, steps=np.int32(2))
        assert torch.equal(mf.Explicit()(inner)(x, 2 * x), mf.Explicit()(same)(x, 2 * x))
        assert mf.CG(damping=number) == mf.CG(damping=0.5)
    with pytest.raises(TypeError, match="rescale: expected True or False, got"):
        mf.Binomial(2, rescale=np.int64(1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (
            lambda: options.integer("n", 0, 5),
            "n: expected an integer of at least 1, got 0. Give n such a value, e.g. n=5.",
        ),
        (lambda: options.integer("n", 4, 1, low=0, high=3), "n: expected an integer in 0..3, got 4."),
        (
            lambda: options.number("x", 1.0, 0.1, high=1.0, optional=True),
            "x: expected None or a number in [0, 1), got 1.0. Give x such a value, e.g. x=0.1, or leave it out.",
        ),
        (
            lambda: options.number("x", float("inf"), 0.1, low=-float("inf")),
            "x: expected a finite number, got inf.",
        ),
        (lambda: options.number("x", 1, 2.0, low=2.0), "x: expected a number of at least 2, got 1."),
        (lambda: options.positive("x", 0.0, 0.1), "x: expected a positive number, got 0.0."),
        (lambda: options.choice("way", "left", "up", "down"), "way: expected 'up' or 'down', got 'left'."),
        (
            lambda: options.instance("solver", mf.CG, mf.LinearSolver, "a solver"),
            "solver: expected a solver, got the class CG. Build one, CG(...).",
        ),
    ],
)
def test_the_words(check: Callable[[], None], text: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        check()
    assert str(caught.value).startswith(text)


def test_the_ends_of_intervals() -> None:
    options.number("x", 0.0, 0.1)
    options.number("x", 1.0, 0.1, high=1.0, ends="[]")
    options.integer("n", 3, 1, high=3)
    options.integer("n", None, 1, optional=True)
    for bad in (lambda: options.number("x", 0.0, 0.1, ends="()"), lambda: options.integer("n", None, 1)):
        with pytest.raises((ValueError, TypeError)):
            bad()
