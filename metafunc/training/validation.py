"""When and how a run is validated, and what counts as better."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isnan
from typing import Any

from metafunc.data.tasks import Sampler
from metafunc.training import errors
from metafunc.training.evaluate import check_positive


@dataclass(frozen=True, slots=True)
class Validation:
    """Periodic validation, from which the best checkpoint and early stopping follow.

    Attributes:
        tasks: Where the validation tasks come from, usually the classes of the split "val".
        count: How many tasks, the same ones each time.
        every: Meta-steps between validations.
        batch: How many tasks at a time, a matter of memory.
        monitor: The figure that decides which step is best.
        higher_is_better: Whether the figure is to rise, as an accuracy is, or to fall, as a loss is.
        patience: Stop after so many validations in a row without a new best; ``None``: never.
        seed: Of the draw of the tasks.

    Raises:
        TypeError, ValueError: If a field is of another kind or out of range.
    """

    tasks: Sampler
    count: int = 200
    every: int = 500
    batch: int = 20
    monitor: str = "accuracy"
    higher_is_better: bool = True
    patience: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if not hasattr(self.tasks, "sample"):
            raise errors.not_a_sampler("tasks", self.tasks)
        for name in ("count", "every", "batch"):
            check_positive(name, getattr(self, name))
        if self.patience is not None:
            check_positive("patience", self.patience)

    def better(self, new: float, old: float) -> bool:
        """Whether ``new`` is better than ``old``. Any number is better than NaN."""
        if isnan(new) or isnan(old):
            return isnan(old) and not isnan(new)
        return new > old if self.higher_is_better else new < old

    @property
    def given(self) -> dict[str, Any]:
        """What decides which state is the best. How long to wait for one may change between parts of a run."""
        names = [field.name for field in fields(self) if field.name not in ("tasks", "patience")]
        return {f"validation.{name}": getattr(self, name) for name in names}
