"""The loop: what it writes, that it goes on to the bit where it was, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import metafunc as mf
from metafunc.training import Score, Validation, evaluate, train
from tests.training.problem import learner, parameters, tasks

QUIET: dict[str, Any] = {"tensorboard": False, "show": False, "batch": 3}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def validation(**changes: Any) -> Validation:
    return Validation(
        tasks(), **{"count": 7, "every": 4, "monitor": "loss", "higher_is_better": False} | changes
    )


class Scripted:
    """A learner whose validation loss follows a script; its state is the number of its steps."""

    def __init__(self, losses: list[float], training: float = 1.0) -> None:
        self.losses, self.training, self.steps, self.asked = losses, training, 0, 0

    def step(self, _: Any) -> Any:
        self.steps += 1
        return SimpleNamespace(loss=torch.tensor(self.training), metrics={})

    def evaluate(self, tasks: Any) -> dict[str, torch.Tensor]:
        loss = self.losses[min(self.asked, len(self.losses) - 1)]
        self.asked += 1
        return {"loss": torch.full((len(tasks["support"][0]),), loss)}

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Any) -> None:
        self.steps = state["steps"]


def test_it_is_the_plain_loop(tmp_path: Path) -> None:
    mine, plain = learner(), learner()
    run = train(mine, tasks(), steps=6, folder=tmp_path, seed=3, log_every=2, **QUIET)
    draws = torch.Generator().manual_seed(3)
    losses = [plain.step(tasks().sample(3, draws)).loss.item() for _ in range(6)]
    assert torch.equal(parameters(mine), parameters(plain))
    assert (run.steps, run.stopped, run.best_step, run.best) == (6, "finished", 6, None)
    found = rows(tmp_path / "training.csv")
    assert [row["step"] for row in found] == ["2", "4", "6"]
    expected = [(losses[i] + losses[i + 1]) / 2 for i in (0, 2, 4)]
    assert [float(row["loss"]) for row in found] == pytest.approx(expected, rel=1e-6)
    assert set(found[0]) == {"step", "seconds", "loss", "absolute", "grad_norm"}


def test_validation_is_that_of_evaluate_and_the_best_state_is_given_back(tmp_path: Path) -> None:
    mine = learner(lr=0.2)  # so large that the loss goes up and down
    run = train(mine, tasks(), steps=16, folder=tmp_path, validation=validation(), **QUIET)
    found = rows(tmp_path / "validation.csv")
    assert [int(row["step"]) for row in found] == [0, 4, 8, 12, 16]
    losses = [float(row["loss"]) for row in found]
    best = losses.index(min(losses))
    assert best != 4, "the last state is the best: the test shows nothing"
    assert run.best_step == 4 * best
    score = evaluate(mine, tasks(), 7, seed=1)["loss"]
    assert run.best == score and score.mean == losses[best]
    assert float(found[best]["loss_interval"]) == score.interval


def test_higher_is_better_by_default(tmp_path: Path) -> None:
    scripted = Scripted([1.0, 3.0, 2.0])
    run = train(
        scripted, tasks(), steps=8, folder=tmp_path, validation=validation(higher_is_better=True), **QUIET
    )
    assert (run.best_step, scripted.steps) == (4, 4)


def test_it_stops_early(tmp_path: Path) -> None:
    scripted = Scripted(
        [5.0, 6.0, 3.0, 4.0, 3.0, 2.0]
    )  # two in a row without a new best, and not one and one
    run = train(scripted, tasks(), steps=99, folder=tmp_path, validation=validation(patience=2), **QUIET)
    assert (run.stopped, run.steps, run.best_step, scripted.steps) == ("early", 16, 8, 8)
    again = train(
        Scripted([0.0]), tasks(), steps=99, folder=tmp_path, validation=validation(patience=2), **QUIET
    )
    assert (again.stopped, again.steps) == ("early", 16), "a run that has stopped early stays so"


@pytest.mark.parametrize("parts", [(5, 16), (4, 7, 16), (1, 16)])
def test_a_run_in_parts_is_the_run_in_one_go(tmp_path: Path, parts: tuple[int, ...]) -> None:
    """Interrupted after so many steps, not at rows or validations alone."""
    whole, split = tmp_path / "whole", tmp_path / "split"
    one = learner(lr=0.2)
    train(one, tasks(), steps=16, folder=whole, validation=validation(), log_every=3, **QUIET)
    for i, end in enumerate(parts[:-1]):
        part = Interrupted(learner(lr=0.2, seed=99 if i else 0), end)  # later ones have to load everything
        ended = train(part, tasks(), steps=16, folder=split, validation=validation(), log_every=3, **QUIET)
        assert (ended.stopped, ended.steps) == ("interrupted", end)
    other = learner(lr=0.2, seed=99)
    train(other, tasks(), steps=16, folder=split, validation=validation(), log_every=3, **QUIET)
    assert torch.equal(parameters(one), parameters(other))
    for name in ("training.csv", "validation.csv"):
        old, new = ([{**row, "seconds": ""} for row in rows(folder / name)] for folder in (whole, split))
        assert old == new and len(old) > 3


class Interrupted:
    """A learner that gets a Ctrl-C in the middle of a step."""

    def __init__(self, meta: mf.MetaOptimizer, at: int) -> None:
        self.meta, self.at = meta, at
        self.evaluate, self.state_dict, self.load_state_dict = (
            meta.evaluate,
            meta.state_dict,
            meta.load_state_dict,
        )

    def step(self, tasks: Any) -> mf.MetaStep:
        if self.meta.steps + 1 == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return self.meta.step(tasks)


@pytest.fixture
def usual_ctrl_c() -> Iterator[None]:
    """As in a program in the foreground; one in the background may have been told to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("usual_ctrl_c")
def test_the_second_ctrl_c_ends_at_once_and_handlers_are_put_back(tmp_path: Path) -> None:
    class Twice(Scripted):
        def step(self, tasks: Any) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            return super().step(tasks)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train(Twice([1.0]), tasks(), steps=3, folder=tmp_path, **QUIET)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


SCRIPT = """
import os, signal, sys
from pathlib import Path
from metafunc.training import train
from tests.training.problem import learner, tasks
meta = learner()
class Killed:
    evaluate, state_dict, load_state_dict = meta.evaluate, meta.state_dict, meta.load_state_dict
    def step(self, tasks):
        if meta.steps == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return meta.step(tasks)
folder = Path(sys.argv[1])
train(Killed(), tasks(), steps=40, batch=3, folder=folder, log_every=2, save_seconds=0.0, tensorboard=False, show=False)
"""


@pytest.mark.exhaustive
def test_a_killed_run_goes_on_to_the_same_end(tmp_path: Path) -> None:
    """SIGKILL in the middle of a step; what was written after the last checkpoint is dropped."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "killed")]
    assert subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode == -signal.SIGKILL
    middle = torch.load(tmp_path / "killed" / "last.pt", weights_only=True)["step"]
    assert 0 < middle < 40
    one, other = learner(), learner(seed=99)
    train(one, tasks(), steps=40, folder=tmp_path / "whole", log_every=2, **QUIET)
    train(other, tasks(), steps=40, folder=tmp_path / "killed", log_every=2, **QUIET)
    assert torch.equal(parameters(one), parameters(other))
    old, new = (
        [{**r, "seconds": ""} for r in rows(tmp_path / f / "training.csv")] for f in ("whole", "killed")
    )
    assert old == new and len(old) == 20


def test_rows_after_the_last_checkpoint_are_dropped(tmp_path: Path) -> None:
    meta = learner()
    train(meta, tasks(), steps=4, folder=tmp_path, log_every=2, **QUIET)
    with (tmp_path / "training.csv").open("a") as file:
        file.write("6,1.0,9.0,9.0,9.0\r\n")
    train(learner(), tasks(), steps=8, folder=tmp_path, log_every=2, **QUIET)
    assert [row["step"] for row in rows(tmp_path / "training.csv")] == ["2", "4", "6", "8"]
    assert float(rows(tmp_path / "training.csv")[2]["loss"]) != 9.0


def test_more_steps_go_on_from_the_last_state_not_the_best(tmp_path: Path) -> None:
    one, other = learner(lr=0.2), learner(lr=0.2)
    train(one, tasks(), steps=8, folder=tmp_path / "a", validation=validation(), **QUIET)
    train(one, tasks(), steps=16, folder=tmp_path / "a", validation=validation(), **QUIET)
    train(other, tasks(), steps=16, folder=tmp_path / "b", validation=validation(), **QUIET)
    assert torch.equal(parameters(one), parameters(other))


def test_a_finished_run_gives_the_best_state_again(tmp_path: Path) -> None:
    one, other = learner(lr=0.2), learner(lr=0.2, seed=5)
    first = train(one, tasks(), steps=16, folder=tmp_path, validation=validation(), **QUIET)
    second = train(other, tasks(), steps=16, folder=tmp_path, validation=validation(), **QUIET)
    assert torch.equal(parameters(one), parameters(other))
    assert (first.best_step, first.best) == (second.best_step, second.best)


def test_restart_begins_anew(tmp_path: Path) -> None:
    train(learner(), tasks(), steps=4, folder=tmp_path, settings={"lr": 1}, **QUIET)
    meta, other = learner(), learner()
    train(meta, tasks(), steps=2, folder=tmp_path, settings={"lr": 2}, restart=True, **QUIET)
    train(other, tasks(), steps=2, folder=tmp_path / "new", **QUIET)
    assert torch.equal(parameters(meta), parameters(other))
    assert [row["step"] for row in rows(tmp_path / "training.csv")] == ["2"]


def test_settings_are_kept_and_others_refused(tmp_path: Path) -> None:
    settings = {"lr": 0.1, "folder": Path("x"), "shape": (1, 2)}
    train(learner(), tasks(), steps=2, folder=tmp_path, settings=settings, **QUIET)
    train(learner(), tasks(), steps=3, folder=tmp_path, settings=settings, **QUIET)
    assert json.loads((tmp_path / "settings.json").read_text()) == {
        "lr": 0.1,
        "folder": "x",
        "shape": [1, 2],
    }
    text = "expected a new folder or one of a run with the same settings, got .* and lr=0.2 \\(there: 0.1\\)"
    with pytest.raises(ValueError, match=text):
        train(learner(), tasks(), steps=3, folder=tmp_path, settings={**settings, "lr": 0.2}, **QUIET)


def test_a_diverged_run_says_so_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    train(Scripted([1.0]), tasks(), steps=4, folder=tmp_path, **QUIET)
    bad = Scripted([1.0], training=float("nan"))
    text = f"loss at meta-step 10: expected a finite number, got nan; {re.escape(str(tmp_path / 'last.pt'))} holds step 4"
    with pytest.raises(FloatingPointError, match=text):
        train(bad, tasks(), steps=40, folder=tmp_path, save_seconds=0.0, **QUIET)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 4
    with pytest.raises(FloatingPointError, match="nothing was saved yet"):
        train(bad, tasks(), steps=40, folder=tmp_path / "new", **QUIET)


class Hostile:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


def test_a_hostile_checkpoint_executes_nothing(tmp_path: Path) -> None:
    train(learner(), tasks(), steps=1, folder=tmp_path, **QUIET)
    torch.save({"learner": Hostile(tmp_path / "canary")}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"last\.pt: expected a checkpoint of this library"):
        train(learner(), tasks(), steps=2, folder=tmp_path, **QUIET)
    assert not (tmp_path / "canary").exists()
    torch.load(tmp_path / "last.pt", weights_only=False)
    assert (tmp_path / "canary").exists(), "the file is no danger: the test shows nothing"


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"learner: expected .*, got int without step, evaluate, state_dict"):
        train(3, tasks(), steps=2, folder=tmp_path, **QUIET)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"tasks: expected an object with sample\(tasks, generator\)"):
        train(learner(), [1], steps=2, folder=tmp_path, **QUIET)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"steps: expected an integer of at least 1, got 0\."):
        train(learner(), tasks(), steps=0, folder=tmp_path, **QUIET)
    with pytest.raises(ValueError, match=r"monitor: expected one of loss, absolute, got 'accuracy'"):
        train(
            learner(),
            tasks(),
            steps=2,
            folder=tmp_path,
            validation=validation(monitor="accuracy", every=1),
            **QUIET,
        )
    assert not (tmp_path / "training.csv").exists(), "refused before any work"


def test_tensorboard_has_the_figures_of_the_tables(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options: dict[str, Any] = {"validation": validation(), "log_every": 2, "show": False, "batch": 3}
    train(learner(), tasks(), steps=4, folder=tmp_path, **options)
    checkpoint = (tmp_path / "last.pt").read_bytes()
    train(learner(), tasks(), steps=8, folder=tmp_path, **options)
    (tmp_path / "last.pt").write_bytes(checkpoint)  # as if killed before the next one was written
    train(learner(), tasks(), steps=8, folder=tmp_path, **options)
    events = EventAccumulator(str(tmp_path)).Reload()
    points = [(e.step, e.value) for e in events.Scalars("training/loss")]
    table = [(int(r["step"]), float(r["loss"])) for r in rows(tmp_path / "training.csv")]
    assert [step for step, _ in points] == [2, 4, 6, 8]
    assert [v for _, v in points] == pytest.approx([v for _, v in table], rel=1e-6)
    assert [e.step for e in events.Scalars("validation/loss")] == [0, 4, 8]


def test_the_terminal_shows_validation_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    scripted = Scripted([5.0, 3.0, 4.0])
    train(
        scripted,
        tasks(),
        steps=8,
        folder=tmp_path,
        validation=validation(),
        batch=2,
        tensorboard=False,
    )
    said = capsys.readouterr()
    assert said.out == ""
    assert "step 4: validation loss 3.0000 ± 0.0000 (best)" in said.err
    assert "step 8: validation loss 4.0000 ± 0.0000\n" in said.err


@pytest.mark.parametrize("package", ["rich", "tensorboard"])
def test_a_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "torch.utils.tensorboard" if package == "tensorboard" else package
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ImportError,
        match=rf"expected the package {package}, got none .* Run pip install 'metafunc\[train\]', or pass",
    ):
        train(learner(), tasks(), steps=1, folder=tmp_path, batch=1, tensorboard=package == "tensorboard")


def test_a_score_is_mean_and_interval() -> None:
    score = Score.of(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert score.mean == 3.0
    assert score.interval == pytest.approx(
        1.96 * (14 / 3) ** 0.5 / 2
    )  # squares 4 + 1 + 0 + 9 over 3, four tasks
    assert str(Score(0.98765, 0.00432, 10)) == "0.9877 ± 0.0043"


def test_evaluate_covers_the_number_of_tasks_and_changes_nothing() -> None:
    meta, seen = learner(), []
    before = parameters(meta).clone()
    scores = evaluate(meta, tasks(), 7, batch=3, seed=4, progress=lambda done, _: seen.append(done))
    draws = torch.Generator().manual_seed(4)
    losses = torch.cat([meta.evaluate(tasks().sample(n, draws))["loss"] for n in (3, 3, 1)])
    assert scores["loss"] == Score.of(losses) and scores["loss"].tasks == 7
    assert seen == [3, 6, 7]
    assert torch.equal(before, parameters(meta))
    with pytest.raises(ValueError, match="count: expected an integer of at least 1, got -1"):
        evaluate(meta, tasks(), -1)


def test_validation_checks_its_fields() -> None:
    with pytest.raises(ValueError, match="every: expected an integer of at least 1, got 0"):
        validation(every=0)
    with pytest.raises(ValueError, match="patience: expected an integer of at least 1, got 0"):
        validation(patience=0)
    with pytest.raises(TypeError, match="tasks: expected an object with sample"):
        Validation(None)  # type: ignore[arg-type]
