"""The benchmarks' quick modes run, and what they write makes sense. Nothing here asserts a time."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("rich")

ROOT = Path(__file__).parents[2]
Row = dict[str, str]


def run(script: str, out: Path) -> str:
    """What a script prints in its quick mode; it writes to ``out``."""
    # The scripts import metafunc as users do, so it is put in their way here even where it is not installed.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / script), "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(path: Path) -> list[Row]:
    with path.open() as file:
        return list(csv.DictReader(file))


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def test_speed(tmp_path: Path) -> None:
    assert "exact contestants agree in float64" in run("benchmarks/speed.py", tmp_path)
    assert is_png(tmp_path / "speed.png")
    rows = read(tmp_path / "speed.csv")
    assert len({row["problem"] for row in rows}) == 2
    rows = [row for row in rows if row["note"] != "not installed"]
    exact = [row for row in rows if row["kind"] == "exact"]
    assert len(exact) >= 2 * 7
    assert {row["note"] for row in rows} == {""}
    assert all(float(row["difference"]) < 1e-10 for row in exact)
    # The biased ones are biased, else the agreement above would be that of a degenerate problem.
    first_order = [row for row in rows if row["contestant"].endswith("FirstOrder()")]
    assert len(first_order) == 2
    assert all(float(row["difference"]) > 0.05 for row in first_order)
    for row in rows:
        assert float(row["min_ms"]) > 0
        counted, needed = int(row["counted_products"]), int(row["need_products"])
        early = (
            "Implicit" in row["contestant"] and 0 < counted < needed
        )  # CG stops where there is nothing left to do
        assert counted == needed or early, row["contestant"]
        assert int(row["counted_gradients"]) >= int(row["need_gradients"]), row["contestant"]
    for row in exact:
        assert int(row["counted_gradients"]) == int(row["need_gradients"]), row["contestant"]


def test_memory(tmp_path: Path) -> None:
    assert "ru_maxrss" in run("benchmarks/memory.py", tmp_path)
    assert is_png(tmp_path / "memory_1_tasks.png")
    cells = {(r["contestant"], int(r["steps"])): r for r in read(tmp_path / "memory_1_tasks.csv")}
    tensors = {cell: int(row["tensor_bytes"]) for cell, row in cells.items()}
    assert tensors["Explicit()", 10] > 2 * tensors["Explicit()", 2]
    assert tensors["Implicit(CG(5))", 10] < 0.5 * tensors["Explicit()", 10]
    assert all(int(row["process_bytes"]) >= 0 for row in cells.values())
    assert int(cells["Explicit()", 10]["process_bytes"]) > int(cells["Explicit()", 2]["process_bytes"])


def test_products(tmp_path: Path) -> None:
    run("benchmarks/products.py", tmp_path)
    rows = read(tmp_path / "products.csv")
    assert len({row["problem"] for row in rows}) == 4
    for row in rows:
        assert float(row["first"]) > 0
        if "over" in row["curvature"] or row["curvature"] == "auto":
            assert float(row["distance"]) < 1e-3


def test_inner_solvers(tmp_path: Path) -> None:
    run("benchmarks/inner_solvers.py", tmp_path)
    rows = [r for r in read(tmp_path / "inner_solvers.csv") if r["problem"] == "regression, F.1"]
    passes = {row["solver"]: int(row["all passes"]) for row in rows}
    assert len(passes) == 6
    assert all(float(row["gradient left"]) <= 1.1e-6 for row in rows)
    assert passes["Nesterov"] < passes["gradient descent"] < passes["Adam"]
    assert passes["Newton-CG, 5 CG steps"] < passes["gradient descent"]


def test_warm_start(tmp_path: Path) -> None:
    run("benchmarks/warm_start.py", tmp_path)
    rows = {(r["outer problem"], r["rtol"]): r for r in read(tmp_path / "warm_start.csv")}
    assert len(rows) == 9
    same = rows["weight decay, the same task", "0.01"]
    assert float(same["warm"]) < float(same["CG steps, cold"])
