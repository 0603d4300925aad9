"""Reference estimators on any model, by plain eager autograd on one task at a time: slow, short and obvious.

They share nothing with the package: no ``torch.func``, no rules, no vmap. Parameters are flat vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor
from torch.autograd import grad as autograd

Objective = Callable[[Tensor, Tensor], Tensor]  # (phi, theta) -> scalar


@dataclass
class Reference:
    """One task: an inner objective on flat parameters, an outer loss, and gradient descent."""

    objective: Objective
    outer: Callable[[Tensor], Tensor]
    theta: Tensor
    lr: float
    steps: int

    def _gradient(self, phi: Tensor, theta: Tensor) -> Tensor:
        return autograd(self.objective(phi, theta), phi, create_graph=True)[0]

    def path(self) -> list[Tensor]:
        phi, points = self.theta.clone(), []
        for _ in range(self.steps):
            points.append(phi)
            leaf = phi.clone().requires_grad_()
            phi = (leaf - self.lr * self._gradient(leaf, self.theta)).detach()
        return [*points, phi]

    def v(self) -> Tensor:
        phi = self.path()[-1].requires_grad_()
        return autograd(self.outer(phi), phi)[0]

    def unrolled(self, theta: Tensor) -> Tensor:
        """``phi_K`` with its whole graph."""
        phi = theta.clone()
        for _ in range(self.steps):
            phi = phi - self.lr * self._gradient(phi, theta)
        return phi

    def explicit(self) -> Tensor:
        theta = self.theta.clone().requires_grad_()
        return autograd(self.outer(self.unrolled(theta)), theta)[0]

    def meta_hessian(self) -> Tensor:
        theta = self.theta.clone().requires_grad_()
        (first,) = autograd(self.outer(self.unrolled(theta)), theta, create_graph=True)
        return torch.stack([autograd(g, theta, retain_graph=True)[0] for g in first])

    def _step_transposed(self, point: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        phi, theta = point.clone().requires_grad_(), self.theta.clone().requires_grad_()
        after = phi - self.lr * self._gradient(phi, theta)
        to_phi, to_theta = autograd(after, (phi, theta), v, allow_unused=True)
        return to_phi, torch.zeros_like(v) if to_theta is None else to_theta

    def truncated(self, depth: int) -> Tensor:
        v, bar = self.v(), torch.zeros_like(self.theta)
        for point in reversed(self.path()[self.steps - depth : self.steps]):
            v, more = self._step_transposed(point, v)
            bar = bar + more
        return v + bar

    def binomial(self, order: int, window: int | None = None) -> Tensor:
        points, v = self.path(), self.v()
        total = v.clone()
        for length in range(1, order + 1):
            for chain in combinations(range(self.steps - (window or self.steps), self.steps), length):
                term = v
                for k in reversed(chain):
                    to_phi, to_theta = self._step_transposed(points[k], term)
                    # The first factor of a chain may end in theta; the chain's other end is then cut off.
                    term, last = to_phi - term, to_theta
                total = total + term + last
        return total

    def implicit(self) -> Tensor:
        phi = self.path()[-1].requires_grad_()
        theta = self.theta.clone().requires_grad_()
        slope = self._gradient(phi, theta)
        rows = [autograd(g, (phi, theta), retain_graph=True) for g in slope]
        hessian, mixed = (torch.stack(part) for part in zip(*rows, strict=True))
        return -mixed.T @ torch.linalg.solve(hessian, self.v())

    def reptile(self) -> Tensor:
        return (self.theta - self.path()[-1]) / (self.steps * self.lr)
