"""The modes of exact curvature: equal where they work, and found out by trial where one does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap

import metafunc as mf
from tests.dense import logistic
from tests.models import MODELS, TASKS
from tests.tasks import close, logistic_loss, options, tensors

MODES: list[Any] = ["reverse", "forward", "auto"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["Explicit", "Binomial", "Implicit"])
def test_the_modes_agree_with_eager_autograd(kind: str, mode: Any, name: str) -> None:
    model = MODELS[name]()
    inner = mf.gradient_descent(model.loss, lr=model.lr, prox=model.prox, steps=model.steps)
    curvature = mf.Exact(mode)
    estimator: mf.Estimator = {
        "Explicit": mf.Explicit(curvature=curvature),
        "Binomial": mf.Binomial(2, curvature=curvature),
        "Implicit": mf.Implicit(mf.Direct(), curvature),
    }[kind]
    adapt = estimator(inner)

    def meta_loss(theta: Any, support: Any, query: Any) -> Tensor:
        return model.loss(adapt(theta, support), query)

    found = vmap(grad(meta_loss), in_dims=(None, 0, 0))(model.theta, model.support, model.query)
    for i in range(TASKS):
        reference = model.reference(i, model.steps)
        expected = {
            "Explicit": reference.explicit,
            "Binomial": lambda r=reference: r.binomial(2),
            "Implicit": reference.implicit,
        }[kind]()
        here = torch.cat([x[i].flatten() for x in (found.values() if isinstance(found, dict) else [found])])
        close(here, expected, 1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_second_derivatives_and_forward_mode(mode: Any) -> None:
    task = logistic(prox=0.8, steps=4)
    theta, support, query = tensors(task)
    inner = mf.gradient_descent(logistic_loss, **options(task))

    def outer(curvature: Any) -> Any:
        adapt = mf.Explicit(checkpoint=True, curvature=curvature)(inner)
        return lambda t: logistic_loss(adapt(t, support), query)

    reference, found = outer(mf.Exact("reverse")), outer(mf.Exact(mode))
    expected = jacrev(jacrev(reference))(theta)
    for nested in (
        jacrev(jacrev(found)),
        jacfwd(jacrev(found)),
        jacrev(jacfwd(found)),
        jacfwd(jacfwd(found)),
    ):
        close(nested(theta), expected, 1e-10)
    close(jvp(found, (theta,), (theta,))[1], grad(reference)(theta) @ theta, 1e-12)


def meta_gradient(loss: Any, theta: Any, batch: Any, curvature: Any) -> Any:
    inner = mf.gradient_descent(loss, lr=0.1, steps=2)
    adapt = mf.Explicit(curvature=curvature)(inner)
    return grad(lambda t: loss(adapt(t, batch), batch))(theta)


def distances(phi: Tensor, batch: Tensor) -> Tensor:
    """``cdist`` has no second derivative in reverse mode, and one in forward mode neither."""
    return torch.cdist(phi, batch).square().mean()


def bilinear(phi: Tensor, batch: Tensor) -> Tensor:
    """An operator whose double backward is missing, while its derivative has a forward mode."""
    return (_OnceBackward.apply(phi) * batch).sum()


class _OnceBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _Refuses.apply(x) * cotangent

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * tangent


class _Refuses(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 3 * x**2

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        raise RuntimeError("derivative for cube_backward is not implemented")

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 6 * x * tangent


def test_auto_falls_back_to_forward_mode() -> None:
    theta, batch = torch.randn(4), torch.randn(4)
    with pytest.raises(RuntimeError, match="cube_backward"):
        meta_gradient(bilinear, theta, batch, mf.Exact("reverse"))
    found = meta_gradient(bilinear, theta, batch, mf.Exact())
    close(found, meta_gradient(lambda p, b: (p**3 * b).sum(), theta, batch, mf.Exact()), 1e-12)


def test_auto_says_so_where_no_mode_works() -> None:
    theta, batch = torch.randn(3, 2), torch.randn(5, 2)
    with pytest.raises(NotImplementedError, match=r"no second derivative in torch.*CentralDifference\(\)"):
        meta_gradient(distances, theta, batch, mf.Exact())
    differenced = meta_gradient(distances, theta, batch, mf.CentralDifference())
    plain = meta_gradient(lambda p, b: ((p[:, None] - b[None]) ** 2).sum(-1).mean(), theta, batch, mf.Exact())
    close(differenced, plain, 1e-8)


def attention_task() -> tuple[Any, Any, Any]:
    net = nn.MultiheadAttention(8, 2, batch_first=True)
    theta = {k: p.detach() for k, p in net.named_parameters()}
    batch = torch.randn(3, 5, 8), torch.randn(3, 5, 8)

    def loss(phi: Any, batch: Any) -> Tensor:
        x, y = batch
        return F.mse_loss(functional_call(net, phi, (x, x, x), {"need_weights": False})[0], y)

    return loss, theta, batch


def test_auto_takes_plain_attention_where_the_fused_one_has_no_second_derivative() -> None:
    loss, theta, batch = attention_task()
    with pytest.raises(RuntimeError, match="flash_attention"):
        meta_gradient(loss, theta, batch, mf.Exact("reverse"))
    found = meta_gradient(loss, theta, batch, mf.Exact())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = meta_gradient(loss, theta, batch, mf.Exact("reverse"))
    assert expected["in_proj_weight"].norm() > 1e-3
    for k in theta:
        close(found[k], expected[k], 1e-12)


@pytest.mark.parametrize(
    "criterion",
    [F.mse_loss, F.huber_loss, F.smooth_l1_loss, F.soft_margin_loss],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("mode", MODES)
def test_criteria_without_a_forward_rule(criterion: Any, mode: Any) -> None:
    theta, batch = torch.randn(3), (torch.randn(6, 3), torch.sign(torch.randn(6)))

    def loss(phi: Tensor, batch: Any) -> Tensor:
        return criterion(batch[0] @ phi, batch[1])

    found = meta_gradient(loss, theta, batch, mf.Exact(mode))
    close(found, meta_gradient(loss, theta, batch, mf.Exact("reverse")), 1e-12)
    leaf = theta.clone().requires_grad_()
    phi = leaf
    for _ in range(2):
        phi = phi - 0.1 * torch.autograd.grad(loss(phi, batch), phi, create_graph=True)[0]
    close(found, torch.autograd.grad(loss(phi, batch), leaf)[0], 1e-12)


def test_an_lstm() -> None:
    net = nn.LSTM(3, 4, batch_first=True)
    theta = {k: p.detach() for k, p in net.named_parameters()}
    batch = torch.randn(2, 5, 3)

    def loss(phi: Any, x: Tensor) -> Tensor:
        return functional_call(net, phi, (x,))[0].square().mean()

    exact = meta_gradient(loss, theta, batch, mf.Exact())
    differenced = meta_gradient(loss, theta, batch, mf.CentralDifference())
    for k in theta:
        close(exact[k], differenced[k], 1e-6)


def test_the_trial_is_made_once_and_leaves_random_numbers_alone() -> None:
    calls: list[int] = []

    def loss(phi: Tensor, batch: Tensor) -> Tensor:
        calls.append(1)
        return ((phi * torch.rand(())) ** 2).sum() + 0 * batch.sum()

    adapt = mf.Explicit()(mf.gradient_descent(loss, lr=0.1, steps=1))

    def run() -> int:
        calls.clear()
        torch.manual_seed(0)
        grad(lambda t: adapt(t, torch.ones(1)).sum())(torch.ones(2))
        return len(calls)

    torch.manual_seed(0)
    drawn = torch.rand(())
    first, second = run(), run()
    assert first > second
    assert second == 1
    found = grad(lambda t: adapt(t, torch.ones(1)).sum())
    torch.manual_seed(0)
    close(found(torch.ones(2)), torch.full((2,), 1 - 0.2 * float(drawn) ** 2), 1e-12)


def test_an_unknown_mode() -> None:
    with pytest.raises(ValueError, match="mode: expected 'auto', 'reverse' or 'forward', got 'backward'"):
        mf.Exact("backward")  # type: ignore[arg-type]
