"""Where a run is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from metafunc.training import checkpoint, errors
from metafunc.training.evaluate import Score
from metafunc.training.learner import Learner, Outcome


@dataclass(slots=True)
class State:
    """What a checkpoint holds beside the learner.

    Attributes:
        given: What decides, beside the learner, how a run goes; one that goes on has to have the same.
        step: How many meta-steps were made.
        seconds: How long they took.
        judged: The step of the last validation; ``None`` before the first one.
        best_step: The step with the best validation; ``None`` before the first one with a number.
        best_mean, best_interval: Its score; NaN before it.
        best: The learner's state at that step. It is here, and not in a file of its own alone, so that no kill can
            leave a checkpoint with another best state than the one that it knows of.
        stale: Validations since.
        skipped: How many meta-steps were skipped.
        skipping: How many of these are the last ones.
        unlogged: How many of these came after the last row of ``training.csv``.
        rows: How many rows the tables have.
        pending: The figures of the steps since the last row of ``training.csv``.
        draws: The state of the generator that draws the tasks.
    """

    given: dict[str, Any]
    step: int = 0
    seconds: float = 0.0
    judged: int | None = None
    best_step: int | None = None
    best_mean: float = float("nan")
    best_interval: float = float("nan")
    best: dict[str, Any] | None = None
    stale: int = 0
    skipped: int = 0
    skipping: int = 0
    unlogged: int = 0
    rows: dict[str, int] = field(default_factory=dict[str, int])
    pending: dict[str, list[Tensor]] = field(default_factory=dict[str, list[Tensor]])
    draws: Tensor = field(default_factory=lambda: torch.Generator().get_state())

    @classmethod
    def resume(cls, folder: Path, given: dict[str, Any], learner: Learner, draws: torch.Generator) -> State:
        """Puts learner and generator where the last checkpoint was taken, if there is one.

        Raises:
            ValueError: If the checkpoint is broken, or that of another run.
        """
        path = folder / "last.pt"
        found = checkpoint.load(path)
        if found is None:
            return cls(given)
        expected = {"learner", *(entry.name for entry in fields(cls))}
        if set(found) != expected:
            names = ", ".join(sorted(map(str, set(found) ^ expected)))
            raise errors.not_a_checkpoint(path, f"one with other entries ({names})")
        state = found.pop("learner")
        odd = [name for name, right in _KINDS.items() if not right(found[name])]
        if odd or found["draws"].shape != draws.get_state().shape:
            raise errors.not_a_checkpoint(path, f"one with an odd entry {', '.join(odd) or 'draws'}")
        if found["given"] != given:
            raise errors.other_settings(folder, found["given"], given)
        try:
            learner.load_state_dict(state)
        except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
            raise errors.state_refused(path, error) from error
        draws.set_state(found["draws"])
        return cls(**found)

    def save(self, folder: Path, learner: Learner, draws: torch.Generator) -> None:
        """Writes the checkpoint to go on from."""
        self.draws = draws.get_state()
        held = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        checkpoint.save(folder / "last.pt", {"learner": learner.state_dict(), **held})

    def note(self, outcome: Outcome) -> None:
        """Counts a step and keeps its figures on their device, so that nobody has to wait for a GPU."""
        self.step += 1
        self.skipping = 0
        stats: Mapping[str, Any] = getattr(outcome, "stats", {})
        means = {
            name: value.detach().float().mean() for name, value in stats.items() if isinstance(value, Tensor)
        }
        norm = getattr(outcome, "grad_norm", None)
        figures: Mapping[str, Tensor | None] = {"loss": outcome.loss, **outcome.metrics, "grad_norm": norm}
        for name, value in {**figures, **{n: x for n, x in means.items() if n not in figures}}.items():
            if value is not None:
                self.pending.setdefault(name, []).append(value.detach())

    def skip(self) -> None:
        """Counts a step that was not made."""
        self.step += 1
        self.skipped, self.skipping, self.unlogged = self.skipped + 1, self.skipping + 1, self.unlogged + 1

    def row(self) -> dict[str, float]:
        """The means of the figures since the last row."""
        # Those that a checkpoint held are on the CPU, the others where the learner is.
        means = {
            name: torch.stack([value.cpu() for value in values]).double().mean().item()
            for name, values in self.pending.items()
        }
        skipped = {"skipped": self.unlogged} if self.unlogged else {}
        self.pending.clear()
        self.unlogged = 0
        return {"step": self.step, "seconds": round(self.seconds, 2), **means, **skipped}

    @property
    def sound(self) -> bool:
        """Whether all losses since the last row are finite, so that the state is worth keeping."""
        return all(bool(torch.isfinite(loss)) for loss in self.pending.get("loss", []))

    def judge(self, score: Score, better: bool, learner: Learner) -> None:
        """Takes note of a validation, and of the learner if there was none better."""
        if better:
            self.best_step, self.best_mean, self.best_interval = self.step, score.mean, score.interval
            self.best = checkpoint.copy(learner.state_dict())
        self.stale = 0 if better else self.stale + 1
        self.judged = self.step

    def show_best(self, folder: Path) -> None:
        """Writes ``best.pt``, for whoever wants the best state; a run that goes on does not read it."""
        path = folder / "best.pt"
        if self.best is None:
            path.unlink(missing_ok=True)
        else:
            checkpoint.save(path, {"step": self.best_step, "learner": self.best})


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_tensors(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, Tensor) for value in cast("list[Any]", values))


_KINDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("step", "stale", "skipped", "skipping", "unlogged"), _is_int),
    **dict.fromkeys(("judged", "best_step"), lambda x: x is None or _is_int(x)),
    **dict.fromkeys(("seconds", "best_mean", "best_interval"), lambda x: isinstance(x, float | int)),
    "given": lambda x: isinstance(x, dict),
    "best": lambda x: x is None or isinstance(x, dict),
    "rows": lambda x: isinstance(x, dict) and all(map(_is_int, cast("Any", x).values())),
    "pending": lambda x: isinstance(x, dict) and all(map(_is_tensors, cast("Any", x).values())),
    "draws": lambda x: isinstance(x, Tensor) and x.dtype == torch.uint8,
}
"""What the entries of a checkpoint are, so that a file of somebody else is told from one."""
