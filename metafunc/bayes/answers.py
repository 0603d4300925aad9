"""What a learner says of many tasks, pooled."""

from __future__ import annotations

import torch
from torch import Tensor

from metafunc.bayes.learner import BayesianLearner
from metafunc.data.tasks import Sampler, batches, check_count
from metafunc.outer import sets


def answers(
    learner: BayesianLearner, tasks: Sampler, count: int, *, batch: int = 20, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The outputs of every sample for the query sets of tasks, and their targets, for :func:`calibration`.

    Args:
        learner: What is judged; it is not changed.
        tasks: Where the tasks come from.
        count: How many tasks.
        batch: How many at a time, a matter of memory: the tasks and the noise depend on it, so keep it where results
            are compared.
        seed: Of the draw of the tasks.

    Shapes:
        Outputs [samples, tasks, ...], targets [tasks, ...], on the CPU.

    Raises:
        ValueError: If ``count`` or ``batch`` is no whole number of at least 1.
    """
    check_count("count", count)
    check_count("batch", batch)
    outputs: list[Tensor] = []
    targets: list[Tensor] = []
    for drawn in batches(tasks, count, batch, seed):
        _, query = sets(drawn)
        outputs.append(learner.predict(drawn).movedim(1, 0).cpu())
        targets.append(query[1].cpu())
    return torch.cat(outputs, 1), torch.cat(targets)
