"""The training loop."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch

from metafunc.data.tasks import Sampler
from metafunc.training import checkpoint, errors
from metafunc.training.display import Display
from metafunc.training.evaluate import Score, check_learner, check_positive, evaluate
from metafunc.training.interrupt import Interrupt
from metafunc.training.learner import Learner
from metafunc.training.record import Board, Table
from metafunc.training.state import State
from metafunc.training.validation import Validation

Ending = Literal["finished", "early", "interrupted"]


@dataclass(frozen=True, slots=True)
class Run:
    """How a training ended.

    Attributes:
        folder: Where everything is.
        steps: How many meta-steps were made, in all parts of the run.
        seconds: How long these took, validation included.
        stopped: ``"finished"``, ``"early"`` (no new best for so long as `Validation.patience` says) or
            ``"interrupted"``.
        best_step: The step whose state the learner has now, the best in validation.
        best: Its score; ``None`` without validation.
    """

    folder: Path
    steps: int
    seconds: float
    stopped: Ending
    best_step: int
    best: Score | None


def train(
    learner: Learner,
    tasks: Sampler,
    *,
    steps: int,
    batch: int,
    folder: str | Path,
    validation: Validation | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    log_every: int = 10,
    save_seconds: float = 60.0,
    tensorboard: bool = True,
    show: bool = True,
    restart: bool = False,
) -> Run:
    """Meta-trains for a number of steps, or goes on with a run that was stopped.

    A run that was interrupted, killed or asked for fewer steps goes on where it was when it is called again with the
    same folder: on a CPU the outcome is the same to the last bit as if it had never stopped. A kill costs what was
    done since the last checkpoint, Ctrl-C and SIGTERM nothing: the meta-step at hand is ended and saved.

    The folder holds ``training.csv`` (means over ``log_every`` steps), ``validation.csv``, TensorBoard's events,
    ``last.pt`` (the checkpoint to go on from), ``best.pt`` (the state with the best validation) and ``settings.json``.

    Args:
        learner: What is trained, such as :class:`metafunc.MetaOptimizer`; at the end it has the best state.
        tasks: Where the tasks come from.
        steps: How many meta-steps in all.
        batch: Tasks in a meta-step.
        folder: Where everything is kept.
        validation: Periodic validation; without it the last state counts as the best.
        seed: Of the draw of the tasks.
        settings: What the run was made with, as JSON can hold it. A run that goes on has to have the same.
        log_every: Meta-steps between rows of ``training.csv``. The figures of a GPU are fetched no more often.
        save_seconds: Time between checkpoints.
        tensorboard: Whether to write TensorBoard's events too.
        show: Whether to show a progress bar and validation scores, on standard error.
        restart: Whether a run that is in the folder is thrown away.

    Raises:
        TypeError, ValueError: If an argument is of another kind or out of range, or the folder is that of a run with
            other settings.
        FloatingPointError: If the loss is no longer finite; the last checkpoint is from before.
        ImportError: If a package for display or TensorBoard is missing.

    Example:
        >>> validation = mf.training.Validation(episodes("val"), count=600, every=500, patience=10)
        >>> run = mf.training.train(meta, episodes("train"), steps=20_000, batch=4, folder="runs/maml",
        ...                         validation=validation)
        >>> mf.training.evaluate(meta, episodes("test"), 1000)["accuracy"]
    """
    check_learner(learner)
    if not hasattr(tasks, "sample"):
        raise errors.not_a_sampler("tasks", tasks)
    for name, value in (("steps", steps), ("batch", batch), ("log_every", log_every)):
        check_positive(name, value)
    path = _prepared(Path(folder), dict(settings or {}), restart)
    training = _Training(learner, tasks, path, seed, validation, tensorboard)
    with Interrupt() as interrupt, Display(steps, training.state.step, show) as display:
        stopped = training.run(steps, batch, log_every, save_seconds, interrupt, display)
    return training.ended(stopped)


class _Training:
    """A run from its last checkpoint on."""

    def __init__(
        self,
        learner: Learner,
        tasks: Sampler,
        folder: Path,
        seed: int,
        validation: Validation | None,
        tensorboard: bool,
    ) -> None:
        self.learner, self.tasks, self.folder, self.validation = learner, tasks, folder, validation
        self.draws = torch.Generator().manual_seed(seed)
        self.state = State.resume(folder, learner, self.draws)
        self.saved = self.state.step or None
        self.training, self.validating = (
            Table(folder / f"{name}.csv", self.state.step) for name in ("training", "validation")
        )
        self.board = Board(folder, self.state.step) if tensorboard else None
        self.clock = time.monotonic() - self.state.seconds

    def run(
        self,
        steps: int,
        batch: int,
        log_every: int,
        save_seconds: float,
        interrupt: Interrupt,
        display: Display,
    ) -> Ending:
        """Makes meta-steps until there is a reason to stop."""
        state, validation, saved_at = self.state, self.validation, time.monotonic()
        if validation is not None and state.step == 0:
            self.validate(validation, display)
        while state.step < steps and not interrupt.asked and not self.given_up:
            outcome = self.learner.step(self.tasks.sample(batch, self.draws))
            state.note(outcome)
            display.advance(state.step)
            last = state.step == steps
            if last or state.step % log_every == 0:
                self.log(display)
            if validation is not None and (last or state.step % validation.every == 0):
                self.validate(validation, display)
            if time.monotonic() - saved_at > save_seconds:
                self.keep()
                saved_at = time.monotonic()
        self.keep()
        return "finished" if state.step >= steps else "early" if self.given_up else "interrupted"

    def log(self, display: Display) -> None:
        """Writes the figures of the steps since the last time."""
        self.state.seconds = time.monotonic() - self.clock
        row = self.state.row()
        if not isfinite(row["loss"]):
            raise errors.not_finite(self.state.step, row["loss"], self.folder, self.saved)
        self.training.add(row)
        if self.board is not None:
            self.board.add("training", row)
        display.figures(row)

    def validate(self, validation: Validation, display: Display) -> None:
        """Scores the learner, and keeps it if there was none better."""
        state, monitor = self.state, validation.monitor
        scores = evaluate(
            self.learner, validation.tasks, validation.count, batch=validation.batch, seed=validation.seed
        )
        if monitor not in scores:
            raise errors.unknown_monitor(monitor, scores)
        row: dict[str, Any] = {"step": state.step, "seconds": round(time.monotonic() - self.clock, 2)}
        for name, score in scores.items():
            row |= {name: score.mean, f"{name}_interval": score.interval}
        self.validating.add(row)
        if self.board is not None:
            self.board.add("validation", row)
        better = state.best_step is None or validation.better(scores[monitor].mean, state.best_mean)
        state.judge(scores[monitor], better)
        if better:
            checkpoint.save(self.folder / "best.pt", {"learner": self.learner.state_dict()})
        star = " (best)" if better else ""
        display.say(f"step {state.step}: validation {monitor} {scores[monitor]}{star}")

    def keep(self) -> None:
        """Saves where the run is, unless it has just diverged."""
        if self.saved != self.state.step and self.state.sound:
            self.state.seconds = time.monotonic() - self.clock
            self.state.save(self.folder, self.learner, self.draws)
            self.saved = self.state.step

    def ended(self, stopped: Ending) -> Run:
        """Gives the learner its best state, unless the run is to go on, and sums up."""
        if self.board is not None:
            self.board.close()
        state, best = self.state, None
        if self.validation is not None and state.best_step is not None:
            best = Score(state.best_mean, state.best_interval, self.validation.count)
            found = None if stopped == "interrupted" else checkpoint.load(self.folder / "best.pt")
            if found is not None:
                self.learner.load_state_dict(found["learner"])
        best_step = state.step if best is None else state.best_step or 0
        return Run(self.folder, state.step, state.seconds, stopped, best_step, best)

    @property
    def given_up(self) -> bool:
        """Whether validation has not improved for long enough."""
        patience = None if self.validation is None else self.validation.patience
        return patience is not None and self.state.stale >= patience


def _prepared(folder: Path, settings: dict[str, Any], restart: bool) -> Path:
    """The folder, with the settings in it; a run that goes on has to have those that it began with."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "settings.json"
    if restart:
        for old in [*folder.glob("*.pt"), *folder.glob("*.csv"), *folder.glob("events.*")]:
            old.unlink()
    settings = json.loads(json.dumps(settings, default=str))
    if path.exists() and (folder / "last.pt").exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        if old != settings:
            raise errors.other_settings(folder, old, settings)
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return folder
