"""A run that was killed anywhere, or made in parts, is the run that never stopped."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from metafunc.training import Run, Validation, train
from tests.training.problem import learner, parameters, tasks
from tests.training.test_train import QUIET, rows, validation


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Pull:
    """A learner without a net: heavy-ball descent to the means of the tasks, with a loss that goes up and down."""

    def __init__(self) -> None:
        self.w, self.v = torch.zeros(3), torch.zeros(3)

    def step(self, tasks: Any) -> Any:
        gap = self.w - tasks["query"][1].mean((0, 1))
        self.v = 0.9 * self.v - 0.7 * gap
        self.w = self.w + self.v
        return type("Outcome", (), {"loss": gap.square().sum(), "metrics": {"size": self.w.norm()}})

    def evaluate(self, tasks: Any) -> dict[str, torch.Tensor]:
        return {"loss": (self.w - tasks["query"][1].mean(1)).square().sum(-1)}

    def state_dict(self) -> dict[str, Any]:
        return {"w": self.w, "v": self.v}

    def load_state_dict(self, state: Any) -> None:
        self.w, self.v = state["w"].clone(), state["v"].clone()


class Points:
    """Tasks around 1."""

    def sample(self, tasks: int, generator: torch.Generator) -> Any:
        x = 1 + torch.randn(tasks, 2, 3, generator=generator)
        return {"support": (x, x), "query": (x, x)}


class Killed(BaseException):
    """The end of a process, which no handler hears."""


class Killer:
    """Ends the run at one of its accesses to the disk: from then on, nothing reaches it, as after a kill."""

    def __init__(self) -> None:
        self.folder, self.left, self.dead, self.partial = "", -1, False, False
        sys.addaudithook(self.hear)

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.folder or event not in ("open", "os.rename", "os.remove", "os.link", "os.truncate"):
            return
        if not str(args[0]).startswith(self.folder):
            return
        self.left -= 1
        if self.dead or self.left < 0:
            self.dead = True
            raise Killed(event)

    @contextmanager
    def after(self, folder: Path, accesses: int) -> Iterator[None]:
        self.folder, self.left, self.dead = str(folder), accesses, False
        try:
            yield
        finally:
            self.folder = ""


KILLER = Killer()
OPTIONS: dict[str, Any] = {"batch": 2, "log_every": 3, "show": False, "tensorboard": False}


def go(folder: Path, steps: int = 13, save_seconds: float = 0.0) -> tuple[Run, Pull]:
    made = Pull()
    checks = Validation(
        Points(), count=4, every=2, batch=3, monitor="loss", higher_is_better=False, patience=4
    )
    return train(
        made, Points(), steps=steps, folder=folder, validation=checks, save_seconds=save_seconds, **OPTIONS
    ), made


def outcome(folder: Path, run: Run, made: Pull) -> Any:
    """All that a run has come to, but for how long it took."""
    tables = [
        [{**row, "seconds": ""} for row in rows(folder / name)] for name in ("training.csv", "validation.csv")
    ]
    best = torch.load(folder / "best.pt", weights_only=True)
    last = torch.load(folder / "last.pt", weights_only=True)
    numbers = [made.w.tolist(), made.v.tolist(), best["learner"]["w"].tolist(), last["learner"]["w"].tolist()]
    names = sorted(path.name for path in folder.iterdir())
    return tables, numbers, best["step"], last["step"], names, run.steps, run.stopped, run.best_step, run.best


@pytest.mark.parametrize("save_seconds", [0.0, 1e9])
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.exhaustive), 29])
def test_a_kill_at_any_access_to_the_disk(tmp_path: Path, save_seconds: float, every: int) -> None:
    """Killed at the k-th one, and once more while it goes on; then, what comes of it is what there would have been."""
    want = outcome(tmp_path / "whole", *go(tmp_path / "whole"))
    assert want[2] not in (0, 12, 13), "the best is the first or the last state: less is shown"
    for k in count(step=every):
        folder = tmp_path / f"{k}"
        try:
            with KILLER.after(folder, k):
                go(folder, save_seconds=save_seconds)
            break
        except Killed:
            pass
        try:
            with KILLER.after(folder, 7 * k % 23):
                go(folder, save_seconds=save_seconds)
        except Killed:
            pass
        assert outcome(folder, *go(folder, save_seconds=save_seconds)) == want, f"killed at access {k}"
    assert k > 60


@pytest.mark.parametrize("name", ["training.csv", "validation.csv"])
@pytest.mark.parametrize("cut", [1, 3, 9])
def test_a_row_that_was_cut_in_half(tmp_path: Path, name: str, cut: int) -> None:
    """A kill in the middle of writing: in a row that no checkpoint knows of."""
    want = outcome(tmp_path / "whole", *go(tmp_path / "whole"))
    go(tmp_path / "cut", 6)
    table = tmp_path / "cut" / name
    row = table.read_bytes().splitlines(keepends=True)[-1]
    table.write_bytes(table.read_bytes() + row[:-cut])
    assert outcome(tmp_path / "cut", *go(tmp_path / "cut")) == want


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_parts_of_any_length(tmp_path: Path, length: int) -> None:
    """Rows, validations and patience are those of one go, wherever the parts end."""
    want = outcome(tmp_path / "whole", *go(tmp_path / "whole", 40))
    assert want[6] == "early"
    for steps in range(length, 40 + length, length):
        run, made = go(tmp_path / "parts", min(steps, 40))
        if run.stopped == "early":
            break
    assert outcome(tmp_path / "parts", run, made) == want


def test_the_end_of_a_part_is_validated_for_its_own_sake(tmp_path: Path) -> None:
    """The learner has its best state, the last one among them, though no later part knows of it."""
    run, made = go(tmp_path, 3)
    assert [row["step"] for row in rows(tmp_path / "validation.csv")] == ["0", "2", "3"]
    assert run.best_step == min((0, 2, 3), key=lambda s: float(_loss_at(tmp_path, s)))
    again, other = go(tmp_path, 3)
    assert (again.best_step, again.best) == (run.best_step, run.best)
    assert torch.equal(made.w, other.w)


def _loss_at(folder: Path, step: int) -> str:
    return next(row["loss"] for row in rows(folder / "validation.csv") if row["step"] == str(step))


@pytest.mark.parametrize("old", ["deleted", "older", "newer"])
def test_best_follows_from_the_checkpoint(tmp_path: Path, old: str) -> None:
    """Whatever has become of ``best.pt``, or if the checkpoint is a copy from before."""
    want = outcome(tmp_path / "whole", *go(tmp_path / "whole"))
    folder = tmp_path / "changed"
    go(folder, 2)
    kept = {name: (folder / name).read_bytes() for name in ("best.pt", "last.pt")}
    go(folder, 8)
    if old == "deleted":
        (folder / "best.pt").unlink()
    else:
        name = "best.pt" if old == "older" else "last.pt"
        (folder / name).write_bytes(kept[name])
    assert outcome(folder, *go(folder)) == want


class Numb(Pull):
    """Its validation is NaN until so many steps are made."""

    def __init__(self, until: int) -> None:
        super().__init__()
        self.until, self.steps = until, 0

    def step(self, tasks: Any) -> Any:
        self.steps += 1
        return super().step(tasks)

    def evaluate(self, tasks: Any) -> dict[str, torch.Tensor]:
        return {
            name: x if self.steps >= self.until else x * float("nan")
            for name, x in super().evaluate(tasks).items()
        }

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "steps": self.steps}

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state)
        self.steps = state["steps"]


@pytest.mark.parametrize("higher", [True, False])
def test_any_number_is_better_than_none(tmp_path: Path, higher: bool) -> None:
    checks = Validation(Points(), count=4, every=2, monitor="loss", higher_is_better=higher)
    text = "validation loss is not a number at meta-step 0"
    made = Numb(until=4)
    with pytest.warns(RuntimeWarning, match=text):
        run = train(made, Points(), steps=4, folder=tmp_path / "some", validation=checks, **OPTIONS)
    assert (run.best_step, made.steps) == (4, 4)
    made = Numb(until=99)
    with pytest.warns(RuntimeWarning, match=text) as said:
        run = train(made, Points(), steps=4, folder=tmp_path / "none", validation=checks, **OPTIONS)
    assert len(said) == 1
    assert (run.best_step, run.best, made.steps) == (4, None, 4), "the trained state is not thrown away"
    assert not (tmp_path / "none" / "best.pt").exists()


CHANGES: dict[str, Any] = {
    "batch": ({"batch": 4}, r"batch=4 \(there: 3\)"),
    "seed": ({"seed": 5}, r"seed=5 \(there: 0\)"),
    "monitor": ({"validation": validation(monitor="absolute")}, "validation.monitor='absolute'"),
    "direction": ({"validation": validation(higher_is_better=True)}, "validation.higher_is_better=True"),
    "validation seed": ({"validation": validation(seed=8)}, r"validation.seed=8 \(there: 1\)"),
    "validation count": ({"validation": validation(count=3)}, r"validation.count=3 \(there: 7\)"),
    "how often": ({"validation": validation(every=3)}, r"validation.every=3 \(there: 4\)"),
    "none": ({"validation": None}, r"validation.monitor=None \(there: 'loss'\)"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_run_is_noticed(tmp_path: Path, what: str) -> None:
    changes, text = CHANGES[what]
    train(learner(), tasks(), steps=2, folder=tmp_path, validation=validation(), **QUIET)
    meta = learner()
    before = parameters(meta)
    with pytest.raises(ValueError, match=text):
        train(meta, tasks(), steps=3, folder=tmp_path, **{"validation": validation(), **QUIET, **changes})
    assert torch.equal(before, parameters(meta))


def test_patience_may_change(tmp_path: Path) -> None:
    """As the number of steps may: it says how long, not what."""
    train(learner(), tasks(), steps=2, folder=tmp_path, validation=validation(patience=1), **QUIET)
    run = train(learner(), tasks(), steps=3, folder=tmp_path, validation=validation(patience=9), **QUIET)
    assert run.steps == 3
