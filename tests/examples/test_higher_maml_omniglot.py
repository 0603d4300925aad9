"""The example in the shape of higher's runs with either import and every estimator."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.examples import program

pytest.importorskip("higher")


def run(folder: Path, *options: object) -> tuple[list[float], str]:
    """The losses that are printed, and what went to the error stream."""
    done = program.start("higher_maml_omniglot.py", folder, "--quick", *options)
    return [float(x) for x in re.findall(r"loss (\S+)", done.out)], done.errors


def test_the_losses_are_those_of_higher(tmp_path: Path) -> None:
    theirs, complaint = run(tmp_path, "--module", "higher")
    assert len(theirs) == 4, complaint
    assert len(set(theirs)) == 4
    assert run(tmp_path, "--module", "metafunc")[0] == theirs


@pytest.mark.parametrize("estimator", ["first-order", "truncated", "binomial", "implicit"])
def test_every_estimator_runs_on_a_file(estimator: str, tmp_path: Path) -> None:
    drawings = np.random.default_rng(0).integers(0, 2, (20, 20, 784), dtype=np.uint8)
    np.savez(
        tmp_path / "letters.npz",
        bits=np.packbits(drawings, axis=-1),
        shape=np.array([20, 20, 28, 28]),
        names=np.array([f"letter {i}" for i in range(20)]),
        split_vinyals=np.array([0] * 8 + [1] * 4 + [2] * 8, dtype=np.uint8),
    )
    losses, complaint = run(
        tmp_path, "--estimator", estimator, "--data", tmp_path / "letters.npz", "--steps", "2"
    )
    assert len(losses) == 3, complaint
    assert np.isfinite(losses).all()


def test_higher_has_one_estimator(tmp_path: Path) -> None:
    assert "take --module metafunc" in run(tmp_path, "--module", "higher", "--estimator", "implicit")[1]
