"""Dense float64 oracles for logistic regression, by numpy alone: no autograd, no torch.

The inner problem is ``mean log(1 + exp(-y x.phi)) + prox/2 ||phi - theta||^2`` from ``phi_0 = theta``, by gradient
descent with or without momentum. One step is a map of the vector ``z = (phi, velocity, theta, lr, prox)``; its
Jacobian is written out, and every path estimator is a product or a sum of products of these matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


@dataclass
class Logistic:
    """One task: support ``x [n, d]``, ``y [n]`` of signs; the outer loss is the same on a query set."""

    x: Array
    y: Array
    query_x: Array
    query_y: Array
    theta: Array
    lr: float = 0.3
    prox: float = 0.0
    momentum: float = 0.0
    nesterov: bool = False
    steps: int = 5

    @property
    def d(self) -> int:
        return len(self.theta)

    def loss_gradient(self, x: Array, y: Array, phi: Array) -> Array:
        return -(x.T @ (y * sigmoid(-y * (x @ phi)))) / len(y)

    def loss_hessian(self, phi: Array) -> Array:
        s = sigmoid(self.x @ phi)
        return (self.x.T * (s * (1 - s))) @ self.x / len(self.y)

    def gradient(self, phi: Array) -> Array:
        return self.loss_gradient(self.x, self.y, phi) + self.prox * (phi - self.theta)

    def hessian(self, phi: Array) -> Array:
        return self.loss_hessian(phi) + self.prox * np.eye(self.d)

    @cached_property
    def path(self) -> tuple[list[tuple[Array, Array]], Array]:
        """The states before every step, and the last ``phi``."""
        phi, velocity, states = self.theta.copy(), np.zeros(self.d), []
        for _ in range(self.steps):
            states.append((phi, velocity))
            slope = self.gradient(phi)
            velocity = self.momentum * velocity + slope
            phi = phi - self.lr * (slope + self.momentum * velocity if self.nesterov else velocity)
        return states, phi

    @property
    def phi(self) -> Array:
        return self.path[1]

    @property
    def v(self) -> Array:
        """The gradient of the outer loss at the last ``phi``."""
        return self.loss_gradient(self.query_x, self.query_y, self.phi)

    def jacobians(self) -> list[Array]:
        """``dz_{k+1}/dz_k`` of every step, on ``z = (phi, velocity, theta, lr, prox)``."""
        d, found = self.d, []
        for phi, velocity in self.path[0]:
            eye, zero, column = np.eye(d), np.zeros((d, d)), np.zeros((d, 1))
            slope, hessian = self.gradient(phi), self.hessian(phi)
            from_prox = (phi - self.theta)[:, None]
            d_slope = np.hstack([hessian, zero, -self.prox * eye, column, from_prox])
            d_velocity = self.momentum * np.hstack([zero, eye, zero, column, column]) + d_slope
            direction = d_slope + self.momentum * d_velocity if self.nesterov else d_velocity
            new_velocity = self.momentum * velocity + slope
            used = slope + self.momentum * new_velocity if self.nesterov else new_velocity
            d_phi = np.hstack([eye, zero, zero, column, column]) - self.lr * direction
            d_phi[:, 3 * d] -= used
            rest = np.eye(3 * d + 2)[2 * d :]
            found.append(np.vstack([d_phi, d_velocity, rest]))
        return found

    def _to_arguments(self, bar: Array) -> tuple[Array, float, float]:
        """From a cotangent of the first ``z`` to those of ``theta`` (where ``phi`` starts), ``lr`` and ``prox``."""
        d = self.d
        return bar[:d] + bar[2 * d : 3 * d], float(bar[3 * d]), float(bar[3 * d + 1])

    def _cotangent(self) -> Array:
        return np.concatenate([self.v, np.zeros(2 * self.d + 2)])

    def truncated(self, depth: int) -> tuple[Array, float, float]:
        """binommaml (5): the product over the last ``depth`` steps."""
        bar = self._cotangent()
        for jacobian in reversed(self.jacobians()[self.steps - depth :]):
            bar = jacobian.T @ bar
        return self._to_arguments(bar)

    def explicit(self) -> tuple[Array, float, float]:
        """binommaml (3)."""
        return self.truncated(self.steps)

    def binomial(
        self, order: int, window: int | None = None, factor: float = 1.0
    ) -> tuple[Array, float, float]:
        """binommaml (8) and (39), by writing out every chain."""
        jacobians = self.jacobians()
        first = self.steps - (window or self.steps)
        n = [factor * (j - np.eye(len(j))) for j in jacobians]
        bar = self._cotangent()
        total = bar.copy()
        for length in range(1, order + 1):
            for chain in combinations(range(first, self.steps), length):
                term = bar
                for k in reversed(chain):
                    term = n[k].T @ term
                total = total + term
        return self._to_arguments(total)

    def implicit(self) -> Array:
        """imaml Lemma 1 at the last ``phi``."""
        return self.prox * np.linalg.solve(self.hessian(self.phi), self.v)

    def krylov(self, steps: int) -> Array:
        """What ``steps`` iterations of CG give: the best point of the Krylov space in the norm of the matrix."""
        matrix, b = self.hessian(self.phi), self.v
        space = np.stack([np.linalg.matrix_power(matrix, j) @ b for j in range(steps)], axis=1)
        basis, _ = np.linalg.qr(space)
        return self.prox * basis @ np.linalg.solve(basis.T @ matrix @ basis, basis.T @ b)

    def neumann(self, steps: int, scale: float) -> Array:
        """The truncated series, from its predicted bias."""
        matrix, b = self.hessian(self.phi), self.v
        left = np.linalg.matrix_power(np.eye(self.d) - scale * matrix, steps)
        return self.prox * (np.eye(self.d) - left) @ np.linalg.solve(matrix, b)

    def reptile(self) -> Array:
        """fo-b-maml (4)."""
        return (self.theta - self.phi) / (self.steps * self.lr)


def logistic(seed: int = 0, d: int = 6, n: int = 12, **options: float) -> Logistic:
    """A task whose Hessians vary along the path and are neither flat nor extreme."""
    rng = np.random.default_rng(seed)
    scales = np.linspace(0.5, 3, d)
    x, query = rng.normal(size=(2, n, d)) * scales
    y, query_y = np.sign(rng.normal(size=(2, n)))
    return Logistic(x, y, query, query_y, theta=rng.normal(size=d) * 0.7, **options)  # type: ignore[arg-type]
