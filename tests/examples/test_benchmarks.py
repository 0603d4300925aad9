"""The benchmarks' quick modes run, and what they write makes sense. Nothing here asserts a time."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples import program

pytest.importorskip("matplotlib")
pytest.importorskip("rich")

Row = dict[str, str]


def run(script: str, out: Path, *options: str) -> str:
    """What a script prints in its quick mode; it writes to ``out``."""
    return program.run(script, out, "--quick", "--out", out, *options)


def read(path: Path) -> list[Row]:
    with path.open() as file:
        return list(csv.DictReader(file))


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


@pytest.mark.parametrize("problem", ["sinusoid", pytest.param("pictures", marks=pytest.mark.exhaustive)])
def test_speed(problem: str, tmp_path: Path) -> None:
    printed = run("benchmarks/speed.py", tmp_path, "--problem", problem)
    assert "exact contestants agree in float64" in printed
    assert is_png(tmp_path / "speed.png")
    rows = read(tmp_path / "speed.csv")
    rows = [row for row in rows if row["note"] != "not installed"]
    exact = [row for row in rows if row["kind"] == "exact"]
    assert len(exact) >= 7
    assert {row["note"] for row in rows} == {""}
    assert all(float(row["difference"]) < 1e-10 for row in exact)
    # The biased ones are biased, else the agreement above would be that of a degenerate problem.
    first_order = [row for row in rows if row["contestant"].endswith("FirstOrder()")]
    assert len(first_order) == 1
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


def test_memory_of_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell in this process, in place of one of its own."""

    def here(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(
            command, 0, program.run("benchmarks/memory.py", tmp_path, *command[2:])
        )

    monkeypatch.setattr(subprocess, "run", here)
    assert "ru_maxrss" in run("benchmarks/memory.py", tmp_path)
    assert is_png(tmp_path / "memory_1_tasks.png")
    tensors = {cell: int(row["tensor_bytes"]) for cell, row in memory_cells(tmp_path).items()}
    assert tensors["Explicit()", 10] > 2 * tensors["Explicit()", 2]
    assert tensors["Implicit(CG(5))", 10] < 0.5 * tensors["Explicit()", 10]


@pytest.mark.exhaustive
def test_memory_of_processes(tmp_path: Path) -> None:
    """In processes of their own, and these not started from this large one, which would count in their peak."""
    command = [
        sys.executable,
        str(program.EXAMPLES / "benchmarks/memory.py"),
        "--quick",
        "--out",
        str(tmp_path),
    ]
    environment = os.environ | {"PYTHONPATH": str(program.ROOT)}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    process = {cell: int(row["process_bytes"]) for cell, row in memory_cells(tmp_path).items()}
    assert all(size >= 0 for size in process.values())
    assert process["Explicit()", 10] > process["Explicit()", 2]


def memory_cells(folder: Path) -> dict[tuple[str, int], Row]:
    return {(r["contestant"], int(r["steps"])): r for r in read(folder / "memory_1_tasks.csv")}


HELP = [
    path for path in sorted((program.EXAMPLES / "benchmarks").glob("*.py")) if "--quick" in path.read_text()
]


@pytest.mark.parametrize("path", HELP, ids=lambda path: path.stem)
def test_every_benchmark_has_help(path: Path, tmp_path: Path) -> None:
    assert "--quick" in program.run(f"benchmarks/{path.name}", tmp_path, "--help")


@pytest.mark.exhaustive
def test_products(tmp_path: Path) -> None:
    run("benchmarks/products.py", tmp_path)
    rows = read(tmp_path / "products.csv")
    assert len({row["problem"] for row in rows}) == 4
    for row in rows:
        assert float(row["first"]) > 0
        if "over" in row["curvature"] or row["curvature"] == "auto":
            assert float(row["distance"]) < 1e-3


@pytest.mark.exhaustive
def test_inner_solvers(tmp_path: Path) -> None:
    run("benchmarks/inner_solvers.py", tmp_path)
    rows = [r for r in read(tmp_path / "inner_solvers.csv") if r["problem"] == "regression, F.1"]
    passes = {row["solver"]: int(row["all passes"]) for row in rows}
    assert len(passes) == 6
    assert all(float(row["gradient left"]) <= 1.1e-6 for row in rows)
    assert passes["Nesterov"] < passes["gradient descent"] < passes["Adam"]
    assert passes["Newton-CG, 5 CG steps"] < passes["gradient descent"]


@pytest.mark.exhaustive
def test_warm_start(tmp_path: Path) -> None:
    run("benchmarks/warm_start.py", tmp_path)
    rows = {(r["outer problem"], r["rtol"]): r for r in read(tmp_path / "warm_start.csv")}
    assert len(rows) == 9
    same = rows["weight decay, the same task", "0.01"]
    assert float(same["warm"]) < float(same["CG steps, cold"])
