"""How well a learner does on tasks, with the uncertainty of the mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from metafunc import options
from metafunc.data.tasks import Sampler, batches
from metafunc.training import errors
from metafunc.training.learner import Learner


@dataclass(frozen=True, slots=True)
class Score:
    """The mean of a figure over tasks.

    Attributes:
        mean: Over all tasks.
        interval: Half the width of the 95 % interval of the mean, ``1.96 std / sqrt(tasks)``, for independent tasks.
        tasks: How many.
    """

    mean: float
    interval: float
    tasks: int

    @classmethod
    def of(cls, values: Tensor) -> Score:
        """The score of figures [tasks]."""
        values = values.double()
        spread = values.std().item() if len(values) > 1 else float("nan")
        return cls(values.mean().item(), 1.96 * spread / sqrt(len(values)), len(values))

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.interval:.4f}"


def evaluate(
    learner: Learner,
    tasks: Sampler,
    count: int,
    *,
    batch: int = 20,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Score]:
    """Adapts to tasks and scores what comes of it, on tasks that are the same ones at every call.

    Args:
        learner: What is judged; it is not changed.
        tasks: Where the tasks come from.
        count: How many tasks. The interval shrinks with its square root: at an accuracy of 50 % of 75 queries, 1,000
            tasks leave about 0.6 %.
        batch: How many at a time, a matter of memory: the tasks depend on it, so keep it where results are compared.
        seed: Of the draw of the tasks.
        progress: Called with the numbers of tasks done and to do.

    Returns:
        The score of every figure that the learner reports, by its name.

    Raises:
        TypeError, ValueError: If an argument is of another kind or out of range.
    """
    check_learner(learner)
    if not hasattr(tasks, "sample"):
        raise errors.not_a_sampler("tasks", tasks)
    for name, value in (("count", count), ("batch", batch)):
        check_positive(name, value)
    found: list[dict[str, Tensor]] = []
    for drawn in batches(tasks, count, batch, seed):
        figures = learner.evaluate(drawn)
        found.append({name: values.detach().cpu() for name, values in figures.items()})
        if progress is not None:
            progress(min(len(found) * batch, count), count)
    return {name: Score.of(torch.cat([part[name] for part in found])) for name in found[0]}


def check_positive(name: str, value: object) -> None:
    """Raises unless ``value`` is a whole number of at least 1."""
    options.integer(name, value, 1)


def check_learner(value: object) -> None:
    """Raises unless ``value`` has the methods of a learner."""
    methods = ("step", "evaluate", "state_dict", "load_state_dict")
    missing = [name for name in methods if not callable(getattr(value, name, None))]
    if missing:
        raise errors.not_a_learner(value, missing)
