"""A trial of a run, before the run that is in its folder is thrown away for it."""

from __future__ import annotations

import copy
from contextlib import suppress

import torch

from metafunc.data.tasks import Sampler
from metafunc.errors import NotFiniteError
from metafunc.training import errors
from metafunc.training.learner import Learner
from metafunc.training.validation import Validation


def rehearse(learner: Learner, tasks: Sampler, batch: int, seed: int, validation: Validation | None) -> None:
    """Makes the first meta-step and the first part of a validation, and puts the learner back to where it was.

    Raises:
        Exception: Whatever would end the run there.
    """
    before = copy.deepcopy(learner.state_dict())
    try:
        with suppress(NotFiniteError):  # a run passes over such a step
            learner.step(tasks.sample(batch, torch.Generator().manual_seed(seed)))
        if validation is not None:
            draws = torch.Generator().manual_seed(validation.seed)
            scores = learner.evaluate(validation.tasks.sample(min(validation.batch, validation.count), draws))
            if validation.monitor not in scores:
                raise errors.unknown_monitor(validation.monitor, scores)
    finally:
        learner.load_state_dict(before)
