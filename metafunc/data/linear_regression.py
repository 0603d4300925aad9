"""Regression tasks: linear models on inputs of a wanted condition number."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from metafunc import options
from metafunc.data.chance import normal, orthonormal
from metafunc.data.tasks import Tasks, check_count, check_float, check_generator, refusal


@final
@dataclass(frozen=True, slots=True)
class LinearRegression:
    """Samples tasks of regression: fit `y = w^T x + noise` from a few points.

    Maths: for each task `w ~ N(0, spread^2 I)`, and inputs `X = sqrt(n) Q S^(1/2) V^T` with `Q` and `V` uniformly
        random with orthonormal columns and `S` evenly spaced from `largest / condition` to `largest`. So the
        Hessian `X^T X / n` of `loss` has the eigenvalues `S` in every drawn set, not only on average; support and
        query have the same eigenvalues in other directions.

    Source: iMAML, appendix F.1 (`imaml()`); iBaML, section 4.1 and appendix A.4 (`ibaml()`); FO-B-MAML, appendix B,
        is the same family with the support set in the place of the query set. Differs in: the papers leave open
        the spectrum between its ends and the scale of it, and iBaML the inputs of the query set.

    Attributes:
        dimension: of the inputs.
        condition: number of the Hessian, which is the square of that of `X`.
        largest: eigenvalue of the Hessian.
        noise: standard deviation of what is added to `y`.
        spread: standard deviation of the weights, around zero.
        shots, queries: points to learn a task from, and to judge the outcome by; at least `dimension` of each.
        dtype: of x and y. Chance is drawn in float64 and rounded.
        device: where the tasks are.

    Raises:
        ValueError: an option is out of range.
    """

    dimension: int = 50
    condition: float = 50.0
    largest: float = 1.0
    noise: float = 0.1
    spread: float = 1.0
    shots: int = 100
    queries: int = 100
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        check_count("dimension", self.dimension)
        check_float("dtype", self.dtype)
        for name, count in (("shots", self.shots), ("queries", self.queries)):
            check_count(name, count)
            if count < self.dimension:
                raise refusal(
                    name,
                    f"at least dimension={self.dimension}, since fewer points make a singular Hessian",
                    count,
                    f"give more {name}, or a lower dimension",
                )
        options.number("condition", self.condition, 50.0, low=1.0)
        options.positive("largest", self.largest, 1.0)
        options.number("noise", self.noise, 0.1)
        options.number("spread", self.spread, 1.0)

    @classmethod
    def imaml(cls) -> "LinearRegression":
        """Appendix F.1 of iMAML: 50 dimensions, a Hessian of condition 50; to be used with `prox=5`.

        The paper gives no noise, number of points, or scale: 0.1, 100 and 1 are chosen here.
        """
        return cls(dimension=50, condition=50.0, noise=0.1, shots=100, queries=100)

    @classmethod
    def ibaml(cls) -> "LinearRegression":
        """Appendix A.4 of iBaML: 32 dimensions, `X` of condition 20, hence a Hessian of condition 400."""
        return cls(dimension=32, condition=400.0, noise=0.01, shots=32, queries=64)

    @staticmethod
    def loss(phi: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Half the mean squared error of the weights `phi` [dimension] on `(x, y)`: its Hessian is `X^T X / n`."""
        x, y = batch
        return 0.5 * (x @ phi - y).square().mean()

    def sample(self, tasks: int, generator: torch.Generator) -> Tasks:
        """Draws a batch of tasks.

        Args:
            tasks: how many.
            generator: the only source of chance; a generator on the CPU gives the same tasks on each device.

        Shapes: support x [tasks, shots, dimension] and y [tasks, shots]; query likewise with `queries`.

        Cost: a QR decomposition of the inputs of each task.

        Raises:
            ValueError: `tasks` is not a whole number of at least 1, or there is no generator.
        """
        weights = self._weights(tasks, generator)
        support = self._points(weights, self.shots, generator)
        return {"support": support, "query": self._points(weights, self.queries, generator)}

    def weights(self, tasks: int, generator: torch.Generator) -> Tensor:
        """Draws the true weights alone, [tasks, dimension]: those of the tasks that `sample` would draw from the same
        state of the generator.

        Raises:
            ValueError: `tasks` is not a whole number of at least 1, or there is no generator.
        """
        return self._weights(tasks, generator).to(self.device, self.dtype)

    def _weights(self, tasks: int, generator: torch.Generator) -> Tensor:
        check_count("tasks", tasks)
        check_generator(generator)
        return self.spread * normal((tasks, self.dimension), generator)

    def _points(self, weights: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        tasks, dimension = weights.shape
        rows = orthonormal((tasks, count, dimension), generator)
        directions = orthonormal((tasks, dimension, dimension), generator)
        spectrum = torch.linspace(
            self.largest / self.condition, self.largest, dimension, dtype=torch.float64, device=weights.device
        )
        x = count**0.5 * (rows * spectrum.sqrt()) @ directions.mT
        y = (x @ weights[:, :, None])[:, :, 0] + self.noise * normal((tasks, count), generator)
        return x.to(self.device, self.dtype), y.to(self.device, self.dtype)
