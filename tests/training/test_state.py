"""Files of a run that are not what they should be: the error names the file, and says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import metafunc as mf
from metafunc.training import train
from tests.training.problem import learner, parameters, tasks
from tests.training.test_train import QUIET, validation


def rewrite(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def write(folder: Path) -> None:
        path = folder / "last.pt"
        torch.save(change(torch.load(path, weights_only=True)), path)

    return write


def text(name: str, written: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(written)


def directory(name: str) -> Callable[[Path], Any]:
    def make(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return make


def entry(name: str, value: Any) -> Callable[[Path], Any]:
    return rewrite(lambda held: {**held, name: value})


BROKEN: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "text": ("last.pt", text("last.pt", "no checkpoint")),
    "nothing": ("last.pt", text("last.pt", "")),
    "half": ("last.pt", lambda f: (f / "last.pt").write_bytes((f / "last.pt").read_bytes()[:999])),
    "a tensor": ("last.pt", rewrite(lambda _: torch.ones(2))),
    "a list": ("last.pt", rewrite(lambda _: [1, 2])),
    "the state of a module": (
        "last.pt",
        rewrite(lambda _: nn.Linear(1, 1, dtype=torch.float32).state_dict()),
    ),
    "the learner alone": ("last.pt", rewrite(lambda held: held["learner"])),
    "no steps": ("last.pt", rewrite(lambda held: {k: v for k, v in held.items() if k != "step"})),
    "one more": ("last.pt", entry("extra", 1)),
    "a step in words": ("last.pt", entry("step", "two")),
    "a negative step": ("last.pt", entry("step", -2)),
    "other draws": ("last.pt", entry("draws", torch.zeros(3, dtype=torch.uint8))),
    "no draws": ("last.pt", entry("draws", None)),
    "odd figures": ("last.pt", entry("pending", {"loss": 3.0})),
    "odd rows": ("last.pt", entry("rows", {"training": "x"})),
    "no learner": ("last.pt", entry("learner", {})),
    "an odd learner": ("last.pt", entry("learner", 3)),
    "no best": ("last.pt", entry("best", 3)),
    "a directory": ("last.pt", directory("last.pt")),
    "half a mapping": ("settings.json", text("settings.json", "{")),
    "a number": ("settings.json", text("settings.json", "3")),
    "bytes": ("settings.json", lambda f: (f / "settings.json").write_bytes(b"\xff\xfe")),
    "settings in a directory": ("settings.json", directory("settings.json")),
    "another table": ("training.csv", text("training.csv", "a,b\n1,2\n")),
    "a table of words": ("training.csv", text("training.csv", "step,loss\nx,2\n")),
    "a table of bytes": ("validation.csv", lambda f: (f / "validation.csv").write_bytes(b"step\n\xff\xfe\n")),
    "a table in a directory": ("validation.csv", directory("validation.csv")),
    "another list": ("run.json", text("run.json", "[1]")),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_named(tmp_path: Path, what: str) -> None:
    options: dict[str, Any] = {**QUIET, "log_every": 1}
    train(learner(), tasks(), steps=1, folder=tmp_path, validation=validation(), **options)
    name, damage = BROKEN[what]
    damage(tmp_path)
    with pytest.raises(ValueError, match=f"{name}: expected .*, got .*(restart=True|another folder)"):
        train(learner(), tasks(), steps=2, folder=tmp_path, validation=validation(), **options)


def made(
    net: nn.Module | None = None, optimizer: Any = None, scheduler: Any = None, **changes: Any
) -> mf.MetaOptimizer:
    torch.manual_seed(3)
    net = nn.Linear(1, 1, dtype=torch.float32) if net is None else net
    adam = torch.optim.Adam(net.parameters(), lr=0.1) if optimizer is None else optimizer(net.parameters())
    inner = changes.pop("inner", lambda problem: mf.gradient_descent(**problem, lr=0.1, steps=1))
    schedule = None if scheduler is None else scheduler(adam)
    return mf.MetaOptimizer(net, F.mse_loss, adam, inner, scheduler=schedule, **changes)


LR = torch.optim.lr_scheduler
OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "optimizer": (lambda: made(optimizer=lambda p: torch.optim.SGD(p, lr=0.1)), "optimizer='SGD'.*optimizer='Adam'"),
    "lr": (lambda: made(optimizer=lambda p: torch.optim.Adam(p, lr=0.3)), "optimizer lr=0.3.*optimizer lr=0.1"),
    "decay": (lambda: made(optimizer=lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.5)), "optimizer weight_decay=0.5"),
    "scheduler": (lambda: made(scheduler=lambda o: LR.StepLR(o, 2)), "scheduler='StepLR'.*scheduler=None"),
    "estimator": (lambda: made(estimator=mf.FirstOrder()), r"estimator=FirstOrder\(\)"),
    "steps": (lambda: made(inner=lambda p: mf.gradient_descent(**p, lr=0.1, steps=2)), r"inner=gradient_descent\(steps=2\)"),
    "clip": (lambda: made(clip=2.0), "clip=2.0.*clip=None"),
    "seed": (lambda: made(seed=9), "seed=9.*seed=0"),
    "module": (lambda: made(nn.Linear(1, 1, bias=False, dtype=torch.float32)), r"weight \[1, 1\]|bias missing.*bias \[1\]"),
    "width": (lambda: made(nn.Sequential(nn.Linear(1, 1, dtype=torch.float32), nn.Tanh())), "0.weight"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_another_learner_is_noticed_and_named(tmp_path: Path, what: str) -> None:
    """Its own options would be those of the file from then on, without a word."""
    train(made(), tasks(), steps=2, folder=tmp_path, **QUIET)
    build, words = OTHERS[what]
    other = build()
    before = parameters(other).clone()
    with pytest.raises(
        ValueError, match=rf"last\.pt: expected a checkpoint of a learner like this one.*{words}"
    ):
        train(other, tasks(), steps=3, folder=tmp_path, **QUIET)
    assert torch.equal(parameters(other), before), "it was loaded by half"
    assert other.steps == 0


def test_another_schedule_is_noticed(tmp_path: Path) -> None:
    train(made(scheduler=lambda o: LR.StepLR(o, 2)), tasks(), steps=2, folder=tmp_path, **QUIET)
    with pytest.raises(ValueError, match=r"scheduler step_size=5.*scheduler step_size=2"):
        train(made(scheduler=lambda o: LR.StepLR(o, 5)), tasks(), steps=3, folder=tmp_path, **QUIET)
    train(made(scheduler=lambda o: LR.StepLR(o, 2)), tasks(), steps=3, folder=tmp_path, **QUIET)


def test_a_deleted_table_is_begun_anew(tmp_path: Path) -> None:
    options = {**QUIET, "log_every": 1}
    train(learner(), tasks(), steps=2, folder=tmp_path, **options)
    (tmp_path / "training.csv").unlink()
    train(learner(), tasks(), steps=4, folder=tmp_path, **options)
    assert (tmp_path / "training.csv").read_text().count("\n") == 3
