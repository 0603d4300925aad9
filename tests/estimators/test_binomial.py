"""Binomial where its steps cannot be mapped: a round runs them one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import metafunc as mf
from tests.tasks import close

K, LR = 3, 0.1


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(x)[0][:, -1])


def tanh(phi: Any, batch: Any) -> Tensor:
    return (torch.tanh(batch[0] @ phi["w"]) - batch[1]).square().mean()


def problem(kind: str) -> tuple[Any, dict[str, Tensor], Any]:
    """A loss, parameters and a task."""
    torch.manual_seed(0)
    if kind == "LSTM":
        net, x, y = Recurrent(), torch.randn(5, 4, 3), torch.randn(5, 1)
        theta = {name: p.detach() for name, p in net.named_parameters()}
        return (lambda p, b: F.mse_loss(functional_call(net, p, (b[0],)), b[1])), theta, (x, y)
    theta, batch = {"w": torch.randn(3)}, (torch.randn(6, 3), torch.randn(6))

    def masked(phi: Any, b: Any) -> Tensor:
        keep = torch.tanh(b[0] @ phi["w"]) > -0.5
        return tanh(phi, (b[0][keep], b[1][keep]))

    def read(phi: Any, b: Any) -> Tensor:
        return tanh(phi, b) * (2.0 if tanh(phi, b).item() > 0 else 1.0)

    return (masked if kind == "mask" else read), theta, batch


def by_hand(loss: Any, theta: dict[str, Tensor], batch: Any, order: int) -> list[Tensor]:
    """The expansion by dense Jacobians of the steps, each by plain autograd."""
    names, sizes = list(theta), [x.numel() for x in theta.values()]

    def tree_of(flat: Tensor) -> dict[str, Tensor]:
        return {n: p.reshape(theta[n].shape) for n, p in zip(names, flat.split(sizes), strict=True)}

    def slope(flat: Tensor) -> Tensor:
        return torch.autograd.grad(loss(tree_of(flat), batch), flat, create_graph=True)[0]

    phi = torch.cat([x.reshape(-1) for x in theta.values()]).requires_grad_()
    parts = []
    for _ in range(K):
        g = slope(phi)
        parts.append(-LR * torch.stack([torch.autograd.grad(s, phi, retain_graph=True)[0] for s in g]))
        phi = (phi - LR * g).detach().requires_grad_()
    v = torch.autograd.grad(loss(tree_of(phi), batch), phi)[0]
    # by_length[l]: the sum of N_{k_1}^T ... N_{k_l}^T v with k_1 < ... < k_l.
    by_length = [v] + [torch.zeros_like(v) for _ in range(order)]
    for part in reversed(parts):
        for l in range(order, 0, -1):  # noqa: E741
            by_length[l] = by_length[l] + part.T @ by_length[l - 1]
    return [x.reshape(theta[n].shape) for n, x in tree_of(sum(by_length[1:], by_length[0])).items()]


@pytest.mark.parametrize("order", [1, 2, K])
@pytest.mark.parametrize("kind", ["LSTM", "mask", "item"])
def test_looped_tasks_ask_nothing_of_the_model(kind: str, order: int) -> None:
    loss, theta, batch = problem(kind)
    adapt = mf.Binomial(order)(mf.gradient_descent(loss, lr=LR, steps=K))
    expected = by_hand(loss, theta, batch, order)
    for tasks in (mf.Loop(), None):
        data = batch if tasks is None else tuple(x[None] for x in batch)
        for _ in range(2):
            found = mf.meta_grad(loss, adapt, tasks=tasks)(theta, data, data).grad
            for name, slope in zip(theta, expected, strict=True):
                close(found[name], slope, 1e-9)


def test_an_error_of_the_loss_is_its_own() -> None:
    """It is not taken for one of mapping."""
    calls: list[int] = []

    def loss(phi: Any, batch: Any) -> Tensor:
        calls.append(1)
        if len(calls) > K + 1:
            raise ArithmeticError("the loss has had enough")
        return tanh(phi, batch)

    theta, batch = problem("item")[1:]
    leaf = {"w": theta["w"].clone().requires_grad_()}
    phi = mf.Binomial(1)(mf.gradient_descent(loss, lr=LR, steps=K))(leaf, batch)
    with pytest.raises(ArithmeticError, match="had enough"):
        phi["w"].sum().backward()
