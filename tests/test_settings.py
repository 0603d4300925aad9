"""Settings that do not fit the parameters: refused at the call, by option and leaf."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

import metafunc as mf
from tests.tasks import close


def loss(phi: Any, x: Tensor) -> Tensor:
    return ((x @ phi["weight"] + phi["bias"]) ** 2).mean()


THETA = {"weight": torch.ones(1, 1), "bias": torch.ones(1)}
X = torch.linspace(-1, 1, 5)[:, None]
MAKE = {
    "lr": lambda lr: mf.gradient_descent(loss, lr=lr, steps=2),
    "lr of adam": lambda lr: mf.adam(loss, lr=lr, steps=2),
    "momentum": lambda mu: mf.gradient_descent(loss, lr=0.1, momentum=mu, nesterov=True, steps=2),
    "prox": lambda prox: mf.gradient_descent(loss, lr=0.1, prox=prox, steps=2),
    "weight_decay": lambda decay: mf.newton_cg(loss, weight_decay=decay, prox=1.0),
}
UNFIT: dict[str, tuple[Any, str]] = {
    "a tensor": (torch.full((4,), 0.1), "at ['weight']: expected a number, or a tensor that multiplies"),
    "more axes": (torch.full((1, 1), 0.1), "at ['bias']: expected a number, or a tensor that multiplies"),
    "a function": (lambda theta: torch.full((4,), 0.1), "at ['weight']"),
    "a leaf": ({"weight": 0.1, "bias": torch.full((4,), 0.1)}, "at ['bias']"),
    "a dtype": ({"weight": torch.full((1, 1), 0.1, dtype=torch.float64), "bias": 0.1}, "at ['weight']"),
    "a word": (lambda theta: {"weight": 0.1, "bias": "fast"}, "at ['bias']"),
    "a leaf too few": ({"weight": 0.1}, "got nothing at ['bias']"),
    "a leaf too many": ({"weight": 0.1, "bias": 0.1, "head": 0.1}, "got something at ['head']"),
    "another nesting": (
        {"weight": {"a": 0.1}, "bias": 0.1},
        "got nothing at ['weight'] and something at ['weight']['a']",
    ),
    "another container": (
        [0.1, 0.1],
        "got nothing at ['weight'] and nothing at ['bias'] and something at [0]",
    ),
}


@pytest.mark.parametrize("option", MAKE)
@pytest.mark.parametrize(("value", "text"), UNFIT.values(), ids=UNFIT)
def test_a_setting_that_does_not_fit(value: Any, text: str, option: str) -> None:
    single = {name: x.float() for name, x in THETA.items()}
    value = _single(value)
    with pytest.raises(ValueError, match=f"^{option.split()[0]}.*{re.escape(text)}"):
        MAKE[option](value)(single, X.float())


def _single(value: Any) -> Any:
    """Single precision, but for what is double on purpose."""
    if callable(value):
        return lambda theta: _single(value(theta))
    return value.float() if isinstance(value, Tensor) else value


FIT: dict[str, Any] = {
    "a number": 0.1,
    "a tensor without axes": torch.tensor(0.1),
    "a tensor that repeats": torch.full((1,), 0.1),
    "a tree": {"weight": torch.full((1, 1), 0.1), "bias": 0.1},
    "a function": lambda theta: {"weight": 0.1, "bias": torch.tensor(0.1)},
}


@pytest.mark.parametrize("value", FIT.values(), ids=FIT)
def test_settings_that_fit(value: Any) -> None:
    adapt, plain = (mf.Explicit()(mf.gradient_descent(loss, lr=lr, prox=lr, steps=2)) for lr in (value, 0.1))
    for name in THETA:
        close(adapt(THETA, X)[name], plain(THETA, X)[name], 1e-12)
    batch = torch.stack([X, 2 * X])
    mapped = vmap(grad(lambda t, x: loss(adapt(t, x), x)), in_dims=(None, 0))(THETA, batch)
    alone = grad(lambda t: loss(plain(t, X), X))(THETA)
    close(mapped["weight"][0], alone["weight"], 1e-12)


def test_a_rate_of_each_task_has_the_shape_of_its_parameters() -> None:
    """Under vmap a rate with an axis of tasks is one without."""
    inner = mf.gradient_descent(
        loss, lr=lambda theta: theta["lr"], init=lambda t: {k: t[k] for k in THETA}, steps=2
    )
    rates = torch.tensor([0.1, 0.2, 0.3])
    found = vmap(lambda r: mf.Explicit()(inner)({**THETA, "lr": r}, X)["weight"])(rates)
    for rate, phi in zip(rates, found, strict=True):
        fixed = mf.gradient_descent(loss, lr=float(rate), steps=2)
        close(phi, mf.Explicit()(fixed)(THETA, X)["weight"], 1e-12)
