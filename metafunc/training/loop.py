"""The loop of a run, from its last checkpoint to a reason to stop."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from math import isfinite, isnan
from pathlib import Path
from typing import Any, Literal

import torch

from metafunc.data.tasks import Sampler
from metafunc.errors import NotFiniteError
from metafunc.training import errors
from metafunc.training.display import Display
from metafunc.training.evaluate import Score, evaluate
from metafunc.training.health import hopeless
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
        skipped: How many of the meta-steps were skipped, as their loss or gradient was not finite.
    """

    folder: Path
    steps: int
    seconds: float
    stopped: Ending
    best_step: int
    best: Score | None
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Options:
    """How far a run goes, and how often it does what."""

    steps: int
    batch: int
    log_every: int
    save_seconds: float
    max_skips: int


class Training:
    """A run from its last checkpoint on."""

    def __init__(
        self,
        learner: Learner,
        tasks: Sampler,
        folder: Path,
        seed: int,
        validation: Validation | None,
        options: Options,
        display: Display,
    ) -> None:
        self.learner, self.tasks, self.folder, self.validation = learner, tasks, folder, validation
        self.options, self.display = options, display
        self.draws = torch.Generator().manual_seed(seed)
        judged = {"validation": None} if validation is None else validation.given
        given = {"batch": options.batch, "seed": seed, **judged}
        self.state = State.resume(folder, given, learner, self.draws)
        self.tables = {
            name: Table(folder / f"{name}.csv", self.state.rows.get(name, 0))
            for name in ("training", "validation")
            if name == "training" or validation is not None
        }
        if validation is not None:
            self.state.show_best(folder)
        self.saved = self.state.step if self.state.rows else None
        self.unsaved = self.saved is None
        self.board: Board | None = None
        self.told: set[str] = set()
        self.clock = time.monotonic() - self.state.seconds

    def showing(self, token: str | None) -> Any:
        """A context in which TensorBoard's events are written, if a name for the file is given."""
        if token is None:
            return nullcontext()
        self.board = Board(self.folder, token, self.state.step)
        for name, table in self.tables.items():
            for row in table.kept:
                if int(row["step"]) == self.state.step:
                    self.board.add(name, row)
        return closing(self.board)

    def run(self, interrupt: Interrupt) -> Ending:
        """Makes meta-steps until there is a reason to stop."""
        state, options, validation = self.state, self.options, self.validation
        saved_at = time.monotonic()
        self.display.begin(state.step)
        if validation is not None and state.judged is None:
            self.validate(validation)
        while state.step < options.steps and not interrupt.asked and not self.given_up:
            self.step()
            if state.step % options.log_every == 0:
                self.log()
            if validation is not None and state.step % validation.every == 0:
                self.validate(validation)
            if time.monotonic() - saved_at > options.save_seconds:
                self.keep()
                saved_at = time.monotonic()
        self.keep()
        if state.step < options.steps and not self.given_up:
            return "interrupted"
        # No checkpoint knows of these two: a run that goes on is that which never stopped here.
        if state.pending or state.unlogged:
            self.log()
        if validation is not None and state.judged != state.step:
            self.validate(validation, last=True)
        return "finished" if state.step >= options.steps else "early"

    def step(self) -> None:
        """Makes a meta-step, or passes over it if it cannot be made with numbers alone."""
        self.unsaved = True
        tasks = self.tasks.sample(self.options.batch, self.draws)
        try:
            self.state.note(self.learner.step(tasks))
        except NotFiniteError as error:
            self.state.skip()
            if self.state.skipping > self.options.max_skips:
                self.keep()
                raise errors.too_many_skipped(
                    self.state.step, self.options.max_skips, self.folder, self.saved
                ) from error
            self.tell(f"meta-step {self.state.step} was skipped, as others will be without a word: {error}")
        self.display.advance(self.state.step)

    def log(self) -> None:
        """Writes the figures of the steps since the last time."""
        self.state.seconds = time.monotonic() - self.clock
        row = self.state.row()
        if not isfinite(row.get("loss", 0.0)):
            raise errors.not_finite(self.state.step, row["loss"], self.folder, self.saved)
        self.record("training", row)
        self.display.figures(row)
        wrong = hopeless(row)
        if wrong is not None:
            self.tell(f"the meta-gradients up to meta-step {self.state.step} mean little: {wrong}")

    def validate(self, validation: Validation, last: bool = False) -> None:
        """Scores the learner, and keeps it if there was none better."""
        state, monitor = self.state, validation.monitor
        if not state.sound:
            raise errors.not_finite(state.step, float("nan"), self.folder, self.saved)
        scores = evaluate(
            self.learner, validation.tasks, validation.count, batch=validation.batch, seed=validation.seed
        )
        if monitor not in scores:
            raise errors.unknown_monitor(monitor, scores)
        row: dict[str, Any] = {"step": state.step, "seconds": round(time.monotonic() - self.clock, 2)}
        for name, score in scores.items():
            row |= {name: score.mean, f"{name}_interval": score.interval}
        self.record("validation", row)
        better = validation.better(scores[monitor].mean, state.best_mean)
        state.judge(scores[monitor], better, self.learner)
        self.unsaved = True
        if better:
            if not last:
                self.keep()
            state.show_best(self.folder)
        if isnan(scores[monitor].mean):
            self.tell(
                f"validation {monitor} is not a number at meta-step {state.step}, and counts as worse than any: look "
                "for a validation task that is not finite"
            )
        star = " (best)" if better else ""
        self.display.say(f"step {state.step}: validation {monitor} {scores[monitor]}{star}")

    def record(self, name: str, row: Mapping[str, Any]) -> None:
        """Adds a row to a table and to TensorBoard's events."""
        self.tables[name].add(row)
        if self.board is not None:
            self.board.add(name, row)

    def keep(self) -> None:
        """Saves where the run is, unless that is saved already, or the run has just diverged."""
        if not self.unsaved or not self.state.sound:
            return
        self.state.seconds = time.monotonic() - self.clock
        for name, table in self.tables.items():
            table.sync()
            self.state.rows[name] = table.rows
        self.state.save(self.folder, self.learner, self.draws)
        self.saved, self.unsaved = self.state.step, False

    def tell(self, text: str) -> None:
        """Warns, of each kind of thing once."""
        kind = text.partition(" ")[0]
        if kind not in self.told:
            self.told.add(kind)
            warnings.warn(text, RuntimeWarning, stacklevel=5)

    def ended(self, stopped: Ending) -> Run:
        """Gives the learner its best state, unless the run is to go on, and sums up."""
        state, best = self.state, None
        if self.validation is not None and state.best is not None:
            best = Score(state.best_mean, state.best_interval, self.validation.count)
            if stopped != "interrupted":
                self.learner.load_state_dict(state.best)
        best_step = state.step if best is None else state.best_step or 0
        return Run(self.folder, state.step, state.seconds, stopped, best_step, best, state.skipped)

    @property
    def given_up(self) -> bool:
        """Whether validation has not improved for long enough."""
        patience = None if self.validation is None else self.validation.patience
        return patience is not None and self.state.stale >= patience
