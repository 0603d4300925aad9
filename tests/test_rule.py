"""Rules as torch sees them: a wrong-on-purpose derivative must be the one that every transform uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vmap

import metafunc as mf
from metafunc import errors
from metafunc.rule import Handle, Rule, call
from metafunc.rule import vmap as rule_vmap
from tests.tasks import close


@dataclass(frozen=True)
class Seven(Rule):
    """``x -> (x^2, 3 x)`` with a derivative that is seven times too large in the first outcome."""

    batch: bool = True
    right: bool = True

    @property
    def batchable(self) -> bool:
        return self.batch

    @property
    def exact(self) -> bool:
        return self.right

    def forward(self, args: Any) -> Any:
        if not self.batch:
            args["x"].sum().item()
        return args["x"] ** 2, 3 * args["x"]

    def pullback(self, args: Any, out: Any, cotangent: Any, needs: Any) -> Any:
        first, second = cotangent
        bar = torch.zeros_like(args["x"])
        bar = bar if first is None else bar + 14 * args["x"] * first
        bar = bar if second is None else bar + 3 * second
        return {name: bar if name == "x" else None for name in args}, {}

    def pushforward(self, args: Any, out: Any, tangent: Any) -> Any:
        return 14 * args["x"] * tangent["x"], 3 * tangent["x"]


def square(x: Tensor, **options: bool) -> Tensor:
    return call(Handle(Seven(**options)), {"x": x, "note": "static"})[0]


X = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("batch", [True, False])
def test_every_transform_uses_the_rule(batch: bool) -> None:
    def total(x: Tensor) -> Tensor:
        return square(x, batch=batch).sum()

    rows = torch.stack([X, 2 * X])
    close(grad(total)(X), 14 * X, 1e-15)
    close(jvp(total, (X,), (X,))[1], (14 * X * X).sum(), 1e-15)
    close(vmap(grad(total))(rows), 14 * rows, 1e-15)
    close(grad(lambda x: vmap(total)(x).sum())(rows), 14 * rows, 1e-15)
    close(grad(lambda x: vmap(lambda s: total(s * x))(torch.arange(1.0, 4.0)).sum())(X), 14 * 14 * X, 1e-15)
    close(jacrev(lambda x: square(x, batch=batch))(X), torch.diag(14 * X), 1e-15)
    close(jacfwd(lambda x: square(x, batch=batch))(X), torch.diag(14 * X), 1e-15)
    leaf = X.clone().requires_grad_()
    total(leaf).backward()
    close(leaf.grad, 14 * X, 1e-15)  # type: ignore[arg-type]
    for outer in (jacrev, jacfwd):
        for inner in (jacrev, jacfwd):
            close(outer(inner(total))(X), 14 * torch.eye(3), 1e-15)
    close(vmap(square, in_dims=1)(rows), rows.T**2, 1e-15)


def test_outcomes_without_a_cotangent() -> None:
    close(grad(lambda x: call(Handle(Seven()), {"x": x, "note": 1})[1].sum())(X), 3 * torch.ones(3), 1e-15)


def test_torch_compile_does_not_look_inside() -> None:
    handle = Handle(Seven())

    def total(x: Tensor) -> Tensor:
        return call(handle, {"x": x})[0].sum()

    torch._dynamo.reset()
    compiled = torch.compile(grad(total), fullgraph=True, backend="aot_eager")
    close(compiled(X), 14 * X, 1e-15)


def test_a_rule_that_is_not_exact_refuses_to_be_differentiated_twice() -> None:
    def total(x: Tensor) -> Tensor:
        return square(x, right=False).sum()

    close(grad(total)(X), 14 * X, 1e-15)
    for outer in (jacrev, jacfwd):
        for inner in (jacrev, jacfwd):
            with pytest.raises(errors.SecondDerivativeError):
                outer(inner(total))(X)


def test_a_map_is_differentiated_inside() -> None:
    """The third derivative through BatchNorm outside a map, about which torch 2.13 is wrong, against the loop."""
    x, weight = torch.randn(2, 6, 3), torch.rand(3) + 0.5

    def slope(weight: Tensor, x: Tensor) -> Tensor:
        return grad(lambda w: F.batch_norm(x, None, None, w, w, training=True).pow(3).sum())(weight)

    def by_map(weight: Tensor) -> Tensor:
        return (rule_vmap(slope, (None, 0), 2)(weight, x) ** 2).sum()

    def by_loop(weight: Tensor) -> Tensor:
        return sum((slope(weight, x[i]) ** 2).sum() for i in range(2))  # type: ignore[return-value]

    close(grad(by_map)(weight), grad(by_loop)(weight), 1e-12)
    second = [grad(lambda w, f=f: grad(f)(w).pow(2).sum())(weight) for f in (by_map, by_loop)]
    close(second[0], second[1], 1e-12)


@pytest.mark.parametrize(
    "estimator",
    [
        mf.Explicit(checkpoint=True),
        mf.Truncated(2),
        mf.Binomial(2),
        mf.Implicit(mf.Direct()),
        mf.FiniteDifference(),
    ],
    ids=repr,
)
def test_complex_data_is_fine_and_its_gradient_is_refused(estimator: mf.Estimator) -> None:
    def loss(phi: Tensor, z: Tensor) -> Tensor:
        return ((z * phi - 1).abs() ** 2).sum()

    def of_real(phi: Tensor, z: Tensor) -> Tensor:
        return ((z[:, 0] * phi - 1) ** 2 + (z[:, 1] * phi) ** 2).sum()

    parts, theta = torch.randn(3, 2), torch.randn(3)
    z = torch.view_as_complex(parts)
    adapt, real = (estimator(mf.gradient_descent(fn, lr=0.1, prox=1.0, steps=2)) for fn in (loss, of_real))
    found = grad(lambda t: (adapt(t, z) ** 2).sum())(theta)
    torch.testing.assert_close(
        found, grad(lambda t: (real(t, parts) ** 2).sum())(theta), rtol=1e-6, atol=1e-8
    )
    leaf = z.clone().requires_grad_()
    with pytest.raises(NotImplementedError, match=r"complex tensors\. Pass torch\.view_as_real"):
        (adapt(theta, leaf) ** 2).sum().backward()
    if not isinstance(estimator, mf.FiniteDifference):
        with pytest.raises(NotImplementedError, match="complex tensors"):
            jvp(lambda z: adapt(theta, z), (z,), (z,))
