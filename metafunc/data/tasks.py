"""What every sampler of tasks returns, and the checks that all samplers share."""

from collections.abc import Iterator
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor

from metafunc import options


class Tasks(TypedDict):
    """A batch of tasks: at run time a plain dict of pairs, which `torch.func.vmap` takes as it is.

    Attributes:
        support: `(x, y)`, what a task is learnt from; x [tasks, samples, ...], y [tasks, samples, ...].
        query: `(x, y)`, what the outcome is judged by, laid out alike.
    """

    support: tuple[Tensor, Tensor]
    query: tuple[Tensor, Tensor]


class Sampler(Protocol):
    """A family of tasks: anything that draws batches of them."""

    def sample(self, tasks: int, generator: torch.Generator) -> Tasks:
        """Draws so many tasks; the state of the generator fixes which."""
        ...


def batches(tasks: Sampler, count: int, batch: int, seed: int) -> Iterator[Tasks]:
    """So many tasks, `batch` at a time and the last ones fewer: the same ones at every call."""
    draws = torch.Generator().manual_seed(seed)
    for start in range(0, count, batch):
        yield tasks.sample(min(batch, count - start), draws)


def refusal(where: str, expected: str, got: object, do: str) -> ValueError:
    """The error for a value that cannot be worked with: what was expected, what was there, what to do."""
    return ValueError(f"{where}: expected {expected}, got {got}. {do[0].upper()}{do[1:]}.")


def check_count(name: str, value: Any) -> None:
    """Raises unless `value` is a whole number of at least 1."""
    options.integer(name, value, 5)


def check_float(name: str, value: Any) -> None:
    """Raises unless `value` is a floating-point dtype."""
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise refusal(name, "a floating-point dtype", repr(value), "give torch.float32 or torch.float64, say")


def check_generator(value: Any) -> None:
    """Raises unless `value` is a `torch.Generator`."""
    if not isinstance(value, torch.Generator):
        got = type(value).__name__
        raise refusal("generator", "a torch.Generator", got, "pass torch.Generator().manual_seed(0), say")
