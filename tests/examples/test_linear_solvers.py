"""The table of linear solvers says what is expected of it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.examples import program

pytest.importorskip("torchopt")


def test_nothing_of_ours_is_silently_wrong(tmp_path: Path) -> None:
    program.run("benchmarks/linear_solvers.py", tmp_path, "--out", tmp_path)
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
