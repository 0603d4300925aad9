"""Tasks that are quadratic functions, with Hessians that differ from task to task."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from metafunc import options
from metafunc.data.chance import normal, orthonormal
from metafunc.data.tasks import Tasks, check_count, check_float, check_generator, refusal

_linalg: Any = torch.linalg  # torch does not type all of it


@final
@dataclass(frozen=True, slots=True)
class Quadratics:
    """Samples tasks `f(w) = 1/2 w^T A w - b^T w`.

    Maths: `A = (1 - spread) D + spread V D V^T` with `D` diagonal, evenly spaced between the two `eigenvalues`, and
        `V` a random rotation of each task; `b = A m` with the minimiser `m ~ N(0, scatter^2 I)`. All eigenvalues of
        `A` are between the two, which are met at a spread of 0, where all tasks have one Hessian, and of 1. The
        gradients of support and query have independent noise, `E |noise|^2 = noise^2`.

    Source: the setting of Fallah, Mokhtari and Ozdaglar (2020): strongly convex tasks, smooth with L the larger one of
        the eigenvalues, of exact Hessians (`sigma_H = 0` in (14)) and of gradients with `sigma~ = noise` in (13).
        First-order MAML converges to another point than MAML where the Hessians differ. The paper has no such
        experiment; the family is chosen here.

    Attributes:
        dimension: of `w`.
        eigenvalues: the smallest and the largest one, above 0.
        spread: of the Hessians, from 0 (one for all tasks) to 1 (independent).
        scatter: standard deviation of the minimisers around zero.
        noise: of the gradients, as above.
        dtype: of the tasks. Chance is drawn in float64 and rounded.
        device: where the tasks are.

    Raises:
        ValueError: an option is out of range.
    """

    dimension: int = 10
    eigenvalues: tuple[float, float] = (0.1, 1.0)
    spread: float = 1.0
    scatter: float = 1.0
    noise: float = 0.0
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        check_count("dimension", self.dimension)
        check_float("dtype", self.dtype)
        ends = self.eigenvalues
        options.pair("eigenvalues", ends, (0.1, 1.0))
        if not 0 < ends[0] <= ends[1]:
            raise refusal(
                "eigenvalues", "(low, high) with 0 < low <= high", ends, "give the ends of the spectrum"
            )
        options.number("spread", self.spread, 1.0, high=1.0, ends="[]")
        options.number("scatter", self.scatter, 1.0)
        options.number("noise", self.noise, 0.1)

    @staticmethod
    def loss(w: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """`f(w)` of one task `(A, b)`: [dimension], ([dimension, dimension], [dimension]) -> scalar."""
        a, b = batch
        return 0.5 * w @ a @ w - b @ w

    @staticmethod
    def minimum(batch: tuple[Tensor, Tensor]) -> Tensor:
        """The minimisers `A^-1 b`: ([..., dimension, dimension], [..., dimension]) -> [..., dimension]."""
        a, b = batch
        columns: Tensor = _linalg.solve(a, b[..., None])
        return columns[..., 0]

    def sample(self, tasks: int, generator: torch.Generator) -> Tasks:
        """Draws a batch of tasks.

        Args:
            tasks: how many.
            generator: the only source of chance; a generator on the CPU gives the same tasks on each device.

        Shapes: support and query (A [tasks, dimension, dimension], b [tasks, dimension]).

        Raises:
            ValueError: `tasks` is not a whole number of at least 1, or there is no generator.
        """
        check_count("tasks", tasks)
        check_generator(generator)
        shape = (tasks, self.dimension)
        spectrum = torch.linspace(
            *self.eigenvalues, self.dimension, dtype=torch.float64, device=generator.device
        )
        rotation = orthonormal((*shape, self.dimension), generator)
        own = (rotation * spectrum) @ rotation.mT
        a = (1 - self.spread) * spectrum.diag() + self.spread * own
        b = (a @ (self.scatter * normal(shape, generator))[:, :, None])[:, :, 0]
        # The noise of a gradient is that of b; its squared length has as many terms as dimensions.
        each = self.noise / self.dimension**0.5

        def seen() -> tuple[Tensor, Tensor]:
            noisy = b + each * normal(shape, generator)
            return a.to(self.device, self.dtype), noisy.to(self.device, self.dtype)

        return {"support": seen(), "query": seen()}
