"""The problems of the composition matrix: a convex one, an MLP, and a conv net with affine BatchNorm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from metafunc import tree
from tests.reference import Reference
from tests.tasks import logistic_loss

TASKS = 2


@dataclass
class Model:
    """A loss on a tree of parameters, and a batch of tasks: support and query with a leading axis."""

    loss: Callable[[Any, Any], Tensor]
    theta: Any
    support: tuple[Tensor, Tensor]
    query: tuple[Tensor, Tensor]
    lr: float
    prox: float
    steps: int
    solved_steps: int  # enough to converge

    def to(self, device: str, dtype: torch.dtype) -> Model:
        """The same problem elsewhere; in fewer digits what is solved for does not change, only how well."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, dtype if x.is_floating_point() else x.dtype)

        theta, support, query = tree.map(move, (self.theta, self.support, self.query))
        return replace(self, theta=theta, support=support, query=query)

    def flat(self, params: Any) -> Tensor:
        return tree.ravel(params)[0]

    @cached_property
    def unravel(self) -> Callable[[Tensor], Any]:
        return tree.ravel(self.theta)[1]

    def task(self, i: int) -> tuple[Any, Any]:
        return tuple((x[i], y[i]) for x, y in (self.support, self.query))  # type: ignore[return-value]

    def reference(self, i: int, steps: int) -> Reference:
        support, query = self.task(i)

        def objective(phi: Tensor, theta: Tensor) -> Tensor:
            return self.loss(self.unravel(phi), support) + self.prox / 2 * ((phi - theta) ** 2).sum()

        return Reference(
            objective, lambda phi: self.loss(self.unravel(phi), query), self.flat(self.theta), self.lr, steps
        )


def convex() -> Model:
    signs = torch.sign(torch.randn(2, TASKS, 10))
    x = torch.randn(2, TASKS, 10, 4) * torch.linspace(0.5, 2, 4)
    return Model(logistic_loss, torch.randn(4), (x[0], signs[0]), (x[1], signs[1]), 0.4, 1.5, 3, 30)


def mlp() -> Model:
    net = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1))
    x = 4 * torch.rand(2, TASKS, 6, 1) - 2
    y = torch.sin(x + torch.rand(2, TASKS, 1, 1))

    def loss(params: Any, batch: Any) -> Tensor:
        return F.mse_loss(functional_call(net, params, (batch[0],)), batch[1])

    theta = {name: p.detach().clone() for name, p in net.named_parameters()}
    return Model(loss, theta, (x[0], y[0]), (x[1], y[1]), 0.15, 4.0, 3, 44)


def conv() -> Model:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        norm = nn.BatchNorm2d(outputs, track_running_stats=False)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
        layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        nn.init.normal_(
            layer.weight, std=1.5
        )  # a norm's curvature falls with the size of the weights before it
        return [layer, norm, nn.Softplus()]

    net = nn.Sequential(*block(1, 2), nn.AvgPool2d(2), *block(2, 2), nn.Flatten(), nn.Linear(18, 3))
    x = torch.randn(2, TASKS, 6, 1, 6, 6)
    y = torch.randint(3, (2, TASKS, 6))

    def loss(params: Any, batch: Any) -> Tensor:
        return F.cross_entropy(functional_call(net, params, (batch[0],)), batch[1])

    theta = {name: p.detach().clone() for name, p in net.named_parameters()}
    return Model(loss, theta, (x[0], y[0]), (x[1], y[1]), 0.12, 4.0, 3, 40)


MODELS = {"convex": convex, "mlp": mlp, "conv": conv}
