"""The scripts for BinomMAML's figures 2 and 3 in their quick mode."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("tyro", "rich", "matplotlib"):
    pytest.importorskip(package)

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def run(name: str, folder: Path) -> str:
    """What the script prints; its files are in ``folder / name``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = str(ROOT / "examples" / "papers" / f"{name}.py")
    command = [sys.executable, "-W", "error::UserWarning", script, "--quick", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / name / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return done.stdout


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_measured_errors_stay_below_the_bounds_and_reach_the_sharp_ones(tmp_path):
    printed = run("binommaml_fig2", tmp_path)
    assert printed.count("holds: ") == 8  # all but the order of 3.10, which fails at L = 1
    rows = read(tmp_path / "binommaml_fig2/lines.csv")
    assert len(rows) == 3 * 3 * 6
    for row in rows:
        assert float(row["mean"]) <= float(row["worst"]) <= float(row["bound without order"]) + 1e-12
    sharp = [row for row in rows if row["theorem"].startswith("3.6")]
    for row in sharp:
        assert float(row["worst"]) == pytest.approx(float(row["bound"]), rel=0.02, abs=1e-12)


def test_binomial_falls_faster_with_its_order_than_truncated(tmp_path):
    run("binommaml_fig3", tmp_path)
    means = {
        (row["method"], int(row["L"]), int(row["seed"])): float(row["mean"])
        for row in read(tmp_path / "binommaml_fig3/means.csv")
    }
    for seed in (0, 1):
        for method in ("Truncated", "Binomial"):
            line = [means[method, n, seed] for n in range(5)]
            assert line == sorted(line, reverse=True)
            assert line[0] == means["FirstOrder", 0, seed]
        for n in (3, 4):
            assert means["Binomial", n, seed] < means["Truncated", n, seed]
            # The rescaled learning rate leaves an error of first order.
            assert means["Binomial", n, seed] < 0.5 * means["Binomial, rescaled lr", n, seed]
