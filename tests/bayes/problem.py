"""Bayesian linear regression in closed form, by dense algebra without autograd, and a small classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

import metafunc as mf
from metafunc import bayes

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Conjugate:
    """A task ``y ~ N(x w, sigma^2)`` with a mean-field posterior; ``weight`` is that of the divergence."""

    mean: Array
    log_variance: Array
    x: Array
    y: Array
    query_x: Array
    query_y: Array
    sigma: float
    weight: float

    @property
    def solution(self) -> tuple[Array, Array]:
        """The minimiser of the ELBO: means and variances. (The paper's (20b) has half of ``diag(X X^T)``.)"""
        a, b = self.x.T @ self.x / self.sigma**2, self.x.T @ self.y / self.sigma**2
        precision = self.weight * np.exp(-self.log_variance)
        mean = np.linalg.solve(a + np.diag(precision), precision * self.mean + b)
        return mean, self.weight / (np.diag(a) + precision)

    @property
    def meta_gradient(self) -> tuple[Array, Array]:
        """The derivative of the expected query loss at the solution, in means and log-variances of the prior."""
        a, q = (x.T @ x / self.sigma**2 for x in (self.x, self.query_x))
        mean, variance = self.solution
        precision = self.weight * np.exp(-self.log_variance)
        slope = q @ mean - self.query_x.T @ self.query_y / self.sigma**2
        u = precision * np.linalg.solve(a + np.diag(precision), slope)
        of_variance = 0.5 * np.diag(q) * variance**2 * np.exp(-self.log_variance)
        return u, u * (mean - self.mean) + of_variance

    def loss(self, params: Any, batch: Any) -> Tensor:
        x, y = batch
        return 0.5 * ((x @ params["w"] - y) ** 2).sum() / self.sigma**2

    @property
    def theta(self) -> bayes.Gaussian:
        part = lambda x: {"w": torch.from_numpy(x)}  # noqa: E731
        return {"mean": part(self.mean), "log_variance": part(self.log_variance)}

    @property
    def support(self) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.x), torch.from_numpy(self.y)

    @property
    def query(self) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.query_x), torch.from_numpy(self.query_y)

    @property
    def exact_noise(self) -> dict[str, Tensor]:
        """Nodes with the mean and the covariance of the normal distribution: all that a quadratic loss sees of it."""
        root = len(self.mean) ** 0.5
        return {"w": root * torch.cat([torch.eye(len(self.mean)), -torch.eye(len(self.mean))])}


def conjugate(seed: int = 0, dim: int = 4, weight: float = 0.7) -> Conjugate:
    chance = np.random.default_rng(seed)
    draw = chance.standard_normal
    return Conjugate(
        draw(dim), 0.5 * draw(dim), draw((7, dim)), draw(7), draw((9, dim)), draw(9), 0.8, weight
    )


def descending(problem: Conjugate, steps: int, lr: float = 0.02, **options: Any) -> mf.Inner:
    elbo = bayes.Elbo(problem.loss, problem.weight, **options)
    return mf.gradient_descent(**elbo.problem, lr=lr, steps=steps)


def solved(problem: Conjugate, **options: Any) -> mf.Inner:
    elbo = bayes.Elbo(problem.loss, problem.weight, **options)
    return mf.newton_cg(**elbo.problem, steps=15, solver=exact_solver(), tolerance=1e-12)


def exact_solver() -> mf.CG:
    return mf.CG(max_steps=60, rtol=1e-14)


def expected_query_loss(problem: Conjugate) -> Any:
    elbo = bayes.Elbo(problem.loss)
    return lambda phi: elbo.expected(phi, problem.query, problem.exact_noise)


net = nn.Sequential(
    nn.Conv2d(1, 3, 3),
    nn.BatchNorm2d(3, track_running_stats=False),
    nn.Tanh(),
    nn.Flatten(),
    nn.Linear(12, 3),
)


def classify(params: Any, batch: Any) -> Tensor:
    """Cross-entropy of a small conv net with a norm, which torch differentiates wrongly if it is asked the wrong way."""
    return F.cross_entropy(functional_call(net, params, (batch[0],)), batch[1])


def parameters(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: 0.5 * torch.randn(p.shape, generator=draw) for name, p in net.named_parameters()}


def images(tasks: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(tasks, 6, 1, 4, 4, generator=draw), torch.randint(3, (tasks, 6), generator=draw)


def flat(x: Any) -> Tensor:
    return mf.tree.ravel(x)[0]
