"""The example in the shape of higher's runs with either import and every estimator."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("higher")

ROOT = Path(__file__).parents[2]


def run(*options: str) -> tuple[list[float], str]:
    """The losses that are printed, and what went to the error stream."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / "higher_maml_omniglot.py"), "--quick", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return [float(x) for x in re.findall(r"loss (\S+)", done.stdout)], done.stderr


def test_the_losses_are_those_of_higher() -> None:
    theirs, complaint = run("--module", "higher")
    assert len(theirs) == 4, complaint
    assert len(set(theirs)) == 4
    assert run("--module", "metafunc")[0] == theirs


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
    losses, complaint = run("--estimator", estimator, "--data", str(tmp_path / "letters.npz"), "--steps", "2")
    assert len(losses) == 3, complaint
    assert np.isfinite(losses).all()


def test_higher_has_one_estimator() -> None:
    assert "take --module metafunc" in run("--module", "higher", "--estimator", "implicit")[1]
