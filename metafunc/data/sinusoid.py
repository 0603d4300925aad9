"""Regression tasks: sinusoids of random amplitude and phase."""

from dataclasses import dataclass
from math import pi
from typing import NamedTuple, final

import torch
from torch import Tensor

from metafunc import options
from metafunc.data.tasks import (
    Tasks,
    check_count,
    check_float,
    check_generator,
    refusal,
)


class Curves(NamedTuple):
    """The curves behind a batch of tasks, `y = amplitude sin(x + phase)`.

    Attributes:
        amplitude: [tasks].
        phase: [tasks], in radians.
    """

    amplitude: Tensor
    phase: Tensor

    def at(self, x: Tensor) -> Tensor:
        """The curves' values: x [tasks, n, 1] -> y [tasks, n, 1]."""
        return self.amplitude[:, None, None] * torch.sin(x + self.phase[:, None, None])


@final
@dataclass(frozen=True, slots=True)
class Sinusoids:
    """Samples tasks of regression: fit `y = A sin(x + b)` from a few points of it.

    Maths: for each task `A ~ U[0.1, 5]` and `b ~ U[0, pi]`; for each point `x ~ U[-5, 5]`; no noise.

    Source: BinomMAML, appendix C.1, after Finn et al. (2017). Differs in nothing; the number of query points,
        which the appendix does not give, is an option.

    Attributes:
        shots: points to learn a task from.
        queries: points to judge the outcome by.
        amplitude, phase, inputs: ends of the ranges of `A`, `b` and `x`.
        dtype: of x and y. Chance is drawn in float64 and rounded, so that the tasks are the same ones in each
            dtype.
        device: where the tasks are.

    Raises:
        ValueError: an option is out of range.
    """

    shots: int = 10
    queries: int = 10
    amplitude: tuple[float, float] = (0.1, 5.0)
    phase: tuple[float, float] = (0.0, pi)
    inputs: tuple[float, float] = (-5.0, 5.0)
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        check_count("shots", self.shots)
        check_count("queries", self.queries)
        check_float("dtype", self.dtype)
        for name, ends in (("amplitude", self.amplitude), ("phase", self.phase), ("inputs", self.inputs)):
            options.pair(name, ends, (0.1, 5.0))
            if ends[0] > ends[1]:
                raise refusal(name, "a range (low, high) with low <= high", ends, "give the ends in order")

    def sample(self, tasks: int, generator: torch.Generator) -> Tasks:
        """Draws a batch of tasks.

        Args:
            tasks: how many.
            generator: the only source of chance; a generator on the CPU gives the same tasks on each device.

        Shapes: support x and y [tasks, shots, 1]; query x and y [tasks, queries, 1].

        Raises:
            ValueError: `tasks` is not a whole number of at least 1, or there is no generator.
        """
        curves = self.curves(tasks, generator)
        x = self._uniform((tasks, self.shots + self.queries, 1), self.inputs, generator)
        y = curves.at(x)
        return {
            "support": (x[:, : self.shots], y[:, : self.shots]),
            "query": (x[:, self.shots :], y[:, self.shots :]),
        }

    def curves(self, tasks: int, generator: torch.Generator) -> Curves:
        """Draws the curves alone: those of the tasks that `sample` would draw from the same state of the
        generator.

        Shapes: amplitude and phase [tasks].

        Raises:
            ValueError: `tasks` is not a whole number of at least 1, or there is no generator.
        """
        check_count("tasks", tasks)
        check_generator(generator)
        amplitude = self._uniform((tasks,), self.amplitude, generator)
        return Curves(amplitude, self._uniform((tasks,), self.phase, generator))

    def _uniform(
        self, shape: tuple[int, ...], ends: tuple[float, float], generator: torch.Generator
    ) -> Tensor:
        low, high = ends
        unit = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
        return (low + (high - low) * unit).to(self.device, self.dtype)
