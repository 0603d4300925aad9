"""The table of linear solvers says what is expected of it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torchopt")

ROOT = Path(__file__).parents[2]


def test_nothing_of_ours_is_silently_wrong(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = str(ROOT / "examples" / "benchmarks" / "linear_solvers.py")
    command = [sys.executable, script, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "linear_solvers.csv").open() as file:
        rows = {row.pop("solver"): row for row in csv.DictReader(file)}
    ours = {name: row for name, row in rows.items() if not name.startswith("torchopt")}
    assert len(ours) == 10
    assert len(rows) == 13
    for row in ours.values():
        assert row.pop("vmap of all") == "as alone"
        assert row.pop("inconsistent") == row.pop("NaN") == "flagged"
        assert all(cell == "flagged" or float(cell) < 1e-3 for cell in row.values()), row
    for name, hard in (
        ("CG", "kappa 1e6"),
        ("MINRES", "indefinite"),
        ("GMRES", "nonsymmetric"),
        ("Direct", "rotation"),
    ):
        assert float(ours[name][hard]) < 1e-8
    assert "WRONG" in rows["torchopt solve_cg"].values()
