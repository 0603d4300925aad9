"""The Bayesian examples run, and say what they are there to say."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("tyro", "matplotlib", "torchmetrics", "rich"):
    pytest.importorskip(package)

ROOT = Path(__file__).parents[2]


def run(script: str, out: Path, *options: str) -> list[dict[str, str]]:
    """Runs a script in its quick mode; the rows of its one table."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / script), "--quick", "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    (table,) = out.glob("*.csv")
    with table.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("method", ["abml", "ibaml"])
def test_sinusoid(tmp_path: Path, method: str) -> None:
    (row,) = run("bayes_sinusoid.py", tmp_path, "--method", method)
    assert 0 <= float(row["coverage"]) <= 1
    assert (tmp_path / f"{method}.png").stat().st_size > 10_000


def test_omniglot(tmp_path: Path) -> None:
    rows = run("bayes_omniglot.py", tmp_path)
    assert [row["method"] for row in rows] == ["maml", "abml", "ibaml"]
    for row in rows:
        assert all(0 <= float(row[name]) <= 1 for name in ("accuracy", "ece", "mce"))
        assert float(row["nll_interval"]) > 0
    assert (tmp_path / "reliability.png").stat().st_size > 10_000
