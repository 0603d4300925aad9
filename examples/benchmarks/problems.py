"""The two problems of the benchmarks, and a network that counts what is done with it.

Both are few-shot problems with made-up data: what a meta-gradient costs does not depend on what pictures show.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

Params = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Problem:
    """A batch of tasks, a network, and how its inner loop goes.

    Attributes:
        name: For the tables.
        net: The network, the same module for every contestant.
        criterion: From outputs and targets to the loss of a task.
        support: Inputs and targets with a leading axis of tasks.
        query: Likewise.
        steps: ``K``.
        lr: The inner learning rate.
    """

    name: str
    net: nn.Module
    criterion: Callable[[Tensor, Tensor], Tensor]
    support: Batch
    query: Batch
    steps: int
    lr: float

    @property
    def tasks(self) -> int:
        """How many tasks there are."""
        return len(self.support[0])

    @property
    def theta(self) -> Params:
        """The meta-parameters, as a function of parameters wants them."""
        return {name: p.detach() for name, p in self.net.named_parameters()}

    def to(self, device: str) -> Problem:
        """The same problem there; the network moves."""
        (x, y), (u, w) = self.support, self.query
        return replace(
            self,
            net=self.net.to(device),
            support=(x.to(device), y.to(device)),
            query=(u.to(device), w.to(device)),
        )

    def first(self, tasks: int) -> Problem:
        """The first so many tasks."""
        (x, y), (u, w) = self.support, self.query
        return replace(self, support=(x[:tasks], y[:tasks]), query=(u[:tasks], w[:tasks]))

    def task(self, i: int) -> tuple[Batch, Batch]:
        """Support and query of one task."""
        (x, y), (u, w) = self.support, self.query
        return (x[i], y[i]), (u[i], w[i])

    def loss(self, params: Params, batch: Batch) -> Tensor:
        """The loss of one task, as a user writes it."""
        x, y = batch
        return self.criterion(functional_call(self.net, params, (x,)), y)


def sinusoid(dtype: torch.dtype, seed: int, *, steps: int = 5, tasks: int = 25) -> Problem:
    """Regression on sinusoids: MLP 1-40-40-1, 10 support and 10 query points a task."""
    torch.manual_seed(seed)
    layers = nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1), Tally()
    x = 10 * torch.rand(tasks, 20, 1, dtype=torch.float64) - 5
    amplitude = 0.1 + 4.9 * torch.rand(tasks, 1, 1, dtype=torch.float64)
    y = amplitude * torch.sin(x + math.pi * torch.rand(tasks, 1, 1, dtype=torch.float64))
    x, y = x.to(dtype), y.to(dtype)
    support, query = (x[:, :10], y[:, :10]), (x[:, 10:], y[:, 10:])
    net = nn.Sequential(*layers).to(dtype)
    return Problem(f"sinusoid MLP, {tasks} tasks, K = {steps}", net, F.mse_loss, support, query, steps, 0.01)


def pictures(
    dtype: torch.dtype,
    seed: int,
    *,
    steps: int = 5,
    tasks: int = 4,
    blocks: int = 4,
    channels: int = 32,
    side: int = 28,
    inputs: int = 1,
    shots: int = 5,
    queries: int = 5,
    smooth: bool = False,
) -> Problem:
    """Classification with 5 ways: blocks of convolution, batch norm, ReLU and pooling.

    ``smooth`` takes softplus and mean pooling, which have no kinks.
    """
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i in range(blocks):
        layers += [
            nn.Conv2d(inputs if i == 0 else channels, channels, 3, padding=1),
            # Running averages are written to in place, which no functional transform allows; MAML never reads them.
            nn.BatchNorm2d(channels, track_running_stats=False),
            nn.Softplus() if smooth else nn.ReLU(),
            nn.AvgPool2d(2) if smooth else nn.MaxPool2d(2),
        ]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * (side >> blocks) ** 2, 5), Tally())
    each = shots + queries
    classes = torch.randn(tasks, 5, 1, inputs, side, side, dtype=torch.float64)
    x = classes + torch.randn(tasks, 5, each, inputs, side, side, dtype=torch.float64)
    y = torch.arange(5)[None, :, None].expand(tasks, 5, each)
    support = (x[:, :, :shots].flatten(1, 2).to(dtype), y[:, :, :shots].flatten(1, 2))
    query = (x[:, :, shots:].flatten(1, 2).to(dtype), y[:, :, shots:].flatten(1, 2))
    size = "" if side == 28 else f" {side}x{side}x{inputs}"
    name = f"{'smooth ' if smooth else ''}conv net{size}, {tasks} tasks, K = {steps}"
    return Problem(name, net.to(dtype), F.cross_entropy, support, query, steps, 0.01)


@dataclass
class Count:
    """What was done with a network.

    Attributes:
        passes: Forward passes, passes backward through those, passes backward through these, ...
    """

    passes: list[int] = field(default_factory=lambda: [0] * 4)

    @property
    def forwards(self) -> int:
        """Passes forward."""
        return self.passes[0]

    @property
    def gradients(self) -> int:
        """Passes backward that are gradients: every product goes backward through the network once more."""
        return self.passes[1] - self.passes[2]

    @property
    def products(self) -> int:
        """Hessian-vector products: passes backward through a pass backward."""
        return self.passes[2]


class Tally(nn.Module):
    """The identity at the end of a network, which counts the passes through it while ``count`` is set.

    Passes for several points at once under ``vmap`` count as that many.
    """

    count: Count | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``x``, counted."""
        return x if self.count is None else _Counted.apply(x, self.count, 0, 1)


class _Counted(torch.autograd.Function):
    """The identity, counted at ``level`` going forward and, by its like, at ``level + 1`` going back."""

    @staticmethod
    def forward(x: Tensor, count: Count, level: int, weight: int) -> Tensor:
        count.passes[level] += weight
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.rest = inputs[1:]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
        count, level, weight = ctx.rest
        return _Counted.apply(cotangent, count, level + 1, weight), None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, count: Count, level: int, weight: int
    ) -> tuple[Tensor, Any]:
        return _Counted.apply(x, count, level, weight * info.batch_size), in_dims[0]
