"""Where a run is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from metafunc.training import checkpoint
from metafunc.training.evaluate import Score
from metafunc.training.learner import Learner, Outcome


@dataclass(slots=True)
class State:
    """What a checkpoint holds beside the learner.

    Attributes:
        step: How many meta-steps were made.
        seconds: How long they took.
        best_step: The step with the best validation; ``None`` before the first one.
        best_mean, best_interval: Its score.
        stale: Validations since.
        pending: The figures of the steps since the last row of ``training.csv``.
        draws: The state of the generator that draws the tasks.
    """

    step: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_mean: float = 0.0
    best_interval: float = 0.0
    stale: int = 0
    pending: dict[str, list[Tensor]] = field(default_factory=dict[str, list[Tensor]])
    draws: Tensor | None = None

    @classmethod
    def resume(cls, folder: Path, learner: Learner, draws: torch.Generator) -> State:
        """Puts learner and generator where the last checkpoint was taken, if there is one."""
        found = checkpoint.load(folder / "last.pt")
        if found is None:
            return cls()
        learner.load_state_dict(found.pop("learner"))
        draws.set_state(found["draws"])
        return cls(**found)

    def save(self, folder: Path, learner: Learner, draws: torch.Generator) -> None:
        """Writes the checkpoint to go on from."""
        self.draws = draws.get_state()
        checkpoint.save(folder / "last.pt", {"learner": learner.state_dict(), **asdict(self)})

    def note(self, outcome: Outcome) -> None:
        """Counts a step and keeps its figures on their device, so that nobody has to wait for a GPU."""
        self.step += 1
        norm = getattr(outcome, "grad_norm", None)
        figures: Mapping[str, Tensor | None] = {"loss": outcome.loss, **outcome.metrics, "grad_norm": norm}
        for name, value in figures.items():
            if value is not None:
                self.pending.setdefault(name, []).append(value.detach())

    def row(self) -> dict[str, float]:
        """The means of the figures since the last row."""
        # Those that a checkpoint held are on the CPU, the others where the learner is.
        means = {
            name: torch.stack([value.cpu() for value in values]).double().mean().item()
            for name, values in self.pending.items()
        }
        self.pending.clear()
        return {"step": self.step, "seconds": round(self.seconds, 2), **means}

    @property
    def sound(self) -> bool:
        """Whether all losses since the last row are finite, so that the state is worth keeping."""
        return all(bool(torch.isfinite(loss)) for loss in self.pending.get("loss", []))

    def judge(self, score: Score, better: bool) -> None:
        """Takes note of a validation."""
        if better:
            self.best_step, self.best_mean, self.best_interval = self.step, score.mean, score.interval
        self.stale = 0 if better else self.stale + 1
