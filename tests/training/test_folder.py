"""Whose files are whose: a run touches its own alone, and a folder is that of one run at a time."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from metafunc.training import lock, train
from metafunc.training.folder import Folder
from metafunc.training.lock import Lock
from tests.training.problem import learner, parameters, tasks
from tests.training.test_train import QUIET, Scripted, rows, validation

NAMES = ("last.pt", "best.pt", "training.csv", "validation.csv", "settings.json")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("restart", [False, True])
def test_files_of_others_are_never_overwritten(tmp_path: Path, name: str, restart: bool) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(
        ValueError, match=rf"folder: expected a new folder .* with {name}, which no run has written"
    ):
        train(learner(), tasks(), steps=1, folder=tmp_path, validation=validation(), restart=restart, **QUIET)
    assert (tmp_path / name).read_bytes() == b"mine"


def test_a_restart_deletes_what_the_run_has_written_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    options: dict[str, Any] = {"batch": 3, "show": False}
    train(learner(), tasks(), steps=2, folder=tmp_path, **options)
    mine = (
        "model.pt",
        "table.csv",
        "events.out.tfevents.1.host.2.0",
        "best.pt",
        "curves.png",
        "last.pt.bak.partial",
    )
    for name in mine:  # best.pt too: this run has no validation
        (tmp_path / name).write_text(name)
    events = [name for name in contents(tmp_path) if name.startswith("events") and name not in mine]
    meta, new = learner(), learner()
    train(meta, tasks(), steps=1, folder=tmp_path, restart=True, **options)
    found = contents(tmp_path)
    assert all(found[name] == name.encode() for name in mine)
    assert len(events) == 1 and events[0] not in found
    assert [row["step"] for row in rows(tmp_path / "training.csv")] == ["1"]
    train(new, tasks(), steps=1, folder=tmp_path / "new", **options)
    assert torch.equal(parameters(meta), parameters(new)), "the trial of the step has left a trace"


class Failing(Scripted):
    """Fails at its first step, as a wrong shape does."""

    def step(self, _: Any) -> Any:
        raise RuntimeError("shapes cannot be multiplied")


@pytest.mark.parametrize("what", ["step", "monitor", "tasks"])
def test_a_restart_that_cannot_work_leaves_the_run_whole(tmp_path: Path, what: str) -> None:
    train(learner(), tasks(), steps=2, folder=tmp_path, validation=validation(), **QUIET)
    before = contents(tmp_path)

    class Broken:
        def sample(self, count: int, generator: Any) -> Any:
            raise OSError("no such data set")

    made: Any = Failing([1.0]) if what == "step" else learner()
    data: Any = Broken() if what == "tasks" else tasks()
    checks = validation(monitor="missing") if what == "monitor" else validation()
    with pytest.raises((RuntimeError, ValueError, OSError), match=r"shapes|monitor|no such data"):
        train(made, data, steps=2, folder=tmp_path, validation=checks, restart=True, **QUIET)
    assert contents(tmp_path) == before


def test_a_restart_may_change_everything(tmp_path: Path) -> None:
    train(learner(), tasks(), steps=2, folder=tmp_path, settings={"a": 1}, **QUIET)
    (tmp_path / "last.pt").write_bytes(b"broken")
    again = {**QUIET, "batch": 2}
    run = train(
        learner(),
        tasks(),
        steps=1,
        folder=tmp_path,
        settings={"a": 2},
        seed=4,
        validation=validation(),
        restart=True,
        **again,
    )
    assert run.steps == 1
    assert json.loads((tmp_path / "settings.json").read_text()) == {"a": 2}


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"files": ["../x"]}', '{"files": ["notes.txt"]}', '{"events": ["*"]}', '{"files": 3}'],
)
def test_a_list_that_names_other_files_deletes_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json: expected"):
        Folder(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_what_a_kill_left_of_a_file_is_swept_away(tmp_path: Path) -> None:
    train(learner(), tasks(), steps=1, folder=tmp_path, **QUIET)
    left = tmp_path / f"last.pt.{'0' * 32}.partial"
    for name in (left, tmp_path / "last.pt.old.partial", tmp_path / f"thesis.pt.{'0' * 32}.partial"):
        name.write_text("half")
    train(learner(), tasks(), steps=2, folder=tmp_path, **QUIET)
    assert not left.exists()
    assert sum(path.suffix == ".partial" for path in tmp_path.iterdir()) == 2


class Nested(Scripted):
    """Begins a second run in the same folder from a step of the first."""

    def __init__(self, folder: Path, thread: bool) -> None:
        super().__init__([1.0])
        self.folder, self.thread, self.said = folder, thread, ""

    def step(self, tasks_: Any) -> Any:
        def second() -> None:
            try:
                train(Scripted([1.0]), tasks(), steps=9, folder=self.folder / ".", restart=True, **QUIET)
            except RuntimeError as error:
                self.said = str(error)

        if self.thread:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()
        else:
            second()
        return super().step(tasks_)


@pytest.mark.parametrize("thread", [False, True])
def test_two_runs_of_a_process_cannot_share_a_folder(tmp_path: Path, thread: bool) -> None:
    made = Nested(tmp_path, thread)
    run = train(made, tasks(), steps=1, folder=tmp_path, **QUIET)
    assert run.steps == 1
    assert made.said.startswith("folder: expected one that no other run is using, got ")
    train(Scripted([1.0]), tasks(), steps=2, folder=tmp_path, **QUIET)  # it is free again


HOLDER = """
import os, runpy, sys, types
from pathlib import Path
for name in ("metafunc", "metafunc.training"):  # not the packages themselves, which load torch
    sys.modules[name] = types.ModuleType(name)
sys.modules["metafunc.training"].errors = None
with runpy.run_path(sys.argv[1])["Lock"](Path(sys.argv[2])):
    if os.fork() == 0:  # a worker that outlives its parent
        os.close(1)
        sys.stdin.read()
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_another_process_is_kept_out_until_the_first_has_ended(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, lock.__file__, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(RuntimeError, match="no other run is using"), Lock(tmp_path):
            pass
        process.kill()
        process.wait()
        with Lock(tmp_path):  # though the worker still has the file open
            pass
        process.stdin.close()  # which ends the worker


@pytest.mark.parametrize("settings", [[1], "lr", 3])
def test_settings_are_a_mapping(tmp_path: Path, settings: Any) -> None:
    with pytest.raises(TypeError, match="settings: expected a mapping that JSON can hold"):
        train(learner(), tasks(), steps=1, folder=tmp_path, settings=settings, **QUIET)


def test_settings_are_the_same_in_every_process(tmp_path: Path) -> None:
    """A function prints with its address, and NaN differs from itself."""
    settings = {"loss": torch.nn.functional.mse_loss, "net": torch.nn.Linear, "nothing": float("nan")}
    for steps in (1, 2):
        train(learner(), tasks(), steps=steps, folder=tmp_path, settings=settings, **QUIET)
    assert json.loads((tmp_path / "settings.json").read_text())["loss"] == "mse_loss"


def test_validation_is_a_validation(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match=r"validation: expected mf.training.Validation\(tasks, ...\) or None, got Sinusoids"
    ):
        train(learner(), tasks(), steps=1, folder=tmp_path, validation=tasks(), **QUIET)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_skips: expected a whole number of at least 0, got -1"):
        train(learner(), tasks(), steps=1, folder=tmp_path, max_skips=-1, **QUIET)
