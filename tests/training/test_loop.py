"""Steps that cannot be made, and estimates that mean nothing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import metafunc as mf
from metafunc.training import train
from metafunc.training.health import hopeless
from tests.training.problem import learner, parameters, tasks
from tests.training.test_train import QUIET, rows


class Spoilt:
    """Sinusoids, with a NaN in the batches of some draws."""

    def __init__(self, *at: int) -> None:
        self.at, self.drawn = at, 0

    def sample(self, count: int, generator: torch.Generator) -> Any:
        found = tasks().sample(count, generator)
        if self.drawn in self.at:
            found["support"][0][1] = float("nan")
        self.drawn += 1
        return found


def test_a_broken_task_costs_its_step_and_nothing_else(tmp_path: Path) -> None:
    meta, plain = learner(), learner()
    with pytest.warns(
        RuntimeWarning, match=r"meta-step 3 was skipped.*data that are not finite in task 1 of"
    ) as said:
        run = train(meta, Spoilt(2, 4), steps=6, folder=tmp_path, log_every=2, **QUIET)
    assert len(said) == 1, "once"
    draws, source = torch.Generator().manual_seed(0), tasks()
    for k in range(6):
        batch = source.sample(3, draws)
        if k not in (2, 4):
            plain.step(batch)
    assert torch.equal(parameters(meta), parameters(plain))
    assert (run.steps, run.skipped) == (6, 2)
    assert [(row["step"], row["skipped"]) for row in rows(tmp_path / "training.csv")] == [
        ("2", ""),
        ("4", "1"),
        ("6", "1"),
    ]


@pytest.mark.filterwarnings("ignore:meta-step")
def test_too_many_in_a_row_end_the_run(tmp_path: Path) -> None:
    meta = learner()
    text = r"meta-step 5: expected at most 2 in a row without a finite gradient, got one more; .*last\.pt holds step 5"
    with pytest.raises(FloatingPointError, match=text):
        train(meta, Spoilt(0, 2, 3, 4), steps=9, folder=tmp_path, max_skips=2, **QUIET)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["skipped"] == 4
    assert parameters(meta).isfinite().all()
    with pytest.raises(FloatingPointError, match="expected at most 0"):
        train(learner(), Spoilt(1), steps=9, folder=tmp_path / "none", max_skips=0, **QUIET)


@pytest.mark.filterwarnings("ignore:meta-step")
def test_a_row_without_a_step_that_was_made(tmp_path: Path) -> None:
    run = train(learner(), Spoilt(2, 3), steps=6, folder=tmp_path, log_every=2, **QUIET)
    found = rows(tmp_path / "training.csv")
    assert [(row["skipped"], row["loss"] == "") for row in found] == [("", False), ("2", True), ("", False)]
    assert run.skipped == 2
    pytest.importorskip("matplotlib")
    mf.training.draw_curves(tmp_path)


def implicit(steps: int, solver: Any) -> mf.MetaOptimizer:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).float()
    still = torch.optim.SGD(net.parameters(), lr=0.0)

    def inner(problem: dict[str, Any]) -> mf.Inner:
        return mf.gradient_descent(**problem, lr=0.1, steps=steps, prox=1.0)

    return mf.MetaOptimizer(net, F.mse_loss, still, inner, mf.Implicit(solver))


def test_an_implicit_run_records_how_well_it_solves_and_says_once_that_it_does_not(tmp_path: Path) -> None:
    options = {**QUIET, "log_every": 2, "seed": 1}
    meta = implicit(1, mf.CG(max_steps=1))
    with pytest.warns(
        RuntimeWarning, match="mean little: after the inner loop the gradient is still 0"
    ) as said:
        train(meta, tasks(), steps=6, folder=tmp_path / "bad", **options)
    assert len(said) == 1
    draws = torch.Generator().manual_seed(1)
    steps = [implicit(1, mf.CG(max_steps=1)).backward(tasks().sample(3, draws)) for _ in range(2)]
    row = rows(tmp_path / "bad" / "training.csv")[0]
    for name in steps[0].stats:
        mean = torch.stack([step.stats[name].double().mean() for step in steps]).mean()
        assert float(row[name]) == pytest.approx(mean.item(), rel=1e-5), name
    assert {"stationarity", "linear_residual", "linear_steps"} <= set(row)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(implicit(60, mf.CG(max_steps=30)), tasks(), steps=2, folder=tmp_path / "good", **options)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"stationarity": 0.9}, "the gradient is still 0.9 of that at its start"),
        ({"stationarity": float("nan")}, "the gradient is still nan"),
        ({"linear_residual": 0.8, "linear_steps": 3.0}, "linear solve leaves a relative residual of 0.8"),
        ({"linear_residual": 0.8}, "perturbed inner problems leave a relative residual of 0.8"),
        ({"stationarity": 0.3, "linear_residual": 0.3}, None),
        ({}, None),
    ],
)
def test_what_is_hopeless(row: dict[str, float], words: str | None) -> None:
    found = hopeless(row)
    assert found is None if words is None else words in str(found)
