"""The command for a GPU runs on a CPU: every part, with nothing installed that it can do without, and whatever stops it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "benchmarks" / "gpu.py"
BARE = """
from importlib.machinery import PathFinder

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        missing = {"rich", "tyro", "kornia", "higher", "torchopt", "jax", "h5py", "plotly", "tensorboard"}
        return None if name.partition(".")[0] in missing else super().find_spec(name, path, target)

import sys
sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
"""


def command(out: Path, *options: str) -> tuple[list[str], dict[str, Any]]:
    """The script in a Python without the packages that a bare machine lacks; a time that no part can exceed."""
    (out / "sitecustomize.py").write_text(BARE)
    arguments = ["--device", "cpu", "--quick", "--minutes", "600", "--out", str(out / "gpu"), *options]
    environment = {**os.environ, "PYTHONPATH": str(out), "OMP_NUM_THREADS": "1"}
    return [sys.executable, str(SCRIPT), *arguments], {"env": environment, "cwd": out}


def run(out: Path, *options: str) -> tuple[str, dict[str, Any]]:
    line, where = command(out, *options)
    done = subprocess.run(line, capture_output=True, text=True, check=False, **where)
    assert done.returncode == 0, done.stderr
    return (out / "gpu" / "report.md").read_text(), json.loads((out / "gpu" / "report.json").read_text())


def states(report: dict[str, Any]) -> dict[str, str]:
    return {row["part"]: row["state"] for row in report["parts"]}


@pytest.mark.exhaustive
def test_every_part_runs_on_a_bare_machine(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    parts = "checks,costs,figure4,train-maml,train-imaml,jax,compiled"
    text, report = run(tmp_path, "--only", parts)
    assert states(report) == dict.fromkeys(parts.split(","), "done") | {
        "jax": "left out: jax is not installed"
    }
    for name in ("higher", "jax", "torchopt"):
        assert name in report["machine"]["not installed, and left out"]

    records = report["records"]
    outcomes = [r["outcome"] for r in records["checks"] if "test" in r]
    assert outcomes.count("passed") == 6
    assert set(outcomes) <= {"passed", "skipped"}
    tables = {
        r["table"]: r for name in ("costs", "figure4", "compiled") for r in records[name] if "table" in r
    }
    assert len(tables) == 5
    for table in tables.values():
        assert all(row["ms"] > 0 and row["MB"] > 0 for row in table["rows"]), table
    names = {row["contestant"].split("(")[0] for t in tables.values() for row in t["rows"]}
    assert {"plain autograd loop", "mf Vmap", "mf Loop", "compiled"} <= names
    (many,) = (t for name, t in tables.items() if "30 tasks" in name)
    assert "25 of them were, and the time multiplied" in many["note"]
    for name in ("train-maml", "train-imaml"):
        (trained,) = (r for r in records[name] if "trained" in r)
        assert trained["steps"] > 1
        assert 10 < trained["accuracy"] < 100

    for picture in ("costs", "figure4", "train"):
        assert f"({picture}.png)" in text
        assert (tmp_path / "gpu" / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    assert "| plain autograd loop |" in text


def test_a_part_that_fails_costs_that_part_alone(tmp_path: Path) -> None:
    (tmp_path / "no.npz").write_bytes(b"nothing")
    text, report = run(tmp_path, "--only", "train-maml,jax", "--data", str(tmp_path / "no.npz"))
    assert states(report)["train-maml"].startswith("failed (")
    assert states(report)["jax"] == "left out: jax is not installed"
    assert "| train-maml | failed (" in text


@pytest.mark.exhaustive
def test_the_checks_are_counted(tmp_path: Path) -> None:
    text, report = run(tmp_path, "--only", "checks")
    assert states(report)["checks"] == "done"
    assert "6 passed, 0 failed" in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_found_outlives_a_kill(tmp_path: Path, number: int) -> None:
    line, where = command(tmp_path, "--only", "train-maml,train-imaml", "--train-seconds", "1000")
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **where)
    assert process.stdout is not None
    assert process.stdout.readline() == "train-maml ...\n"
    process.send_signal(number)
    rest, _ = process.communicate()
    assert process.returncode == 130, rest
    report = json.loads((tmp_path / "gpu" / "report.json").read_text())
    assert states(report) == {"train-maml": "interrupted", "train-imaml": "not begun"}
    assert "| train-maml | interrupted |" in (tmp_path / "gpu" / "report.md").read_text()


def test_a_part_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu

    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(1000)",
        ],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    monkeypatch.setattr(gpu, "PATIENCE", 0.1)
    gpu.stop(process)
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--only", "costs,speed"), "--only: expected some of"),
        (("--data", "nowhere.npz"), "--data: there is no nowhere.npz"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: tuple[str, ...], text: str) -> None:
    line, where = command(tmp_path, *options)
    done = subprocess.run(line, capture_output=True, text=True, check=False, **where)
    assert done.returncode == 2
    assert text in done.stderr


def test_every_test_for_a_gpu_is_among_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from gpu_parts.checks import FILES
    from gpu_parts.checks import ROOT as CHECKED

    assert CHECKED == ROOT

    marked = {
        path.relative_to(ROOT / "tests").as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if "tests.devices import" in path.read_text(encoding="utf-8") and path != Path(__file__)
    }
    assert set(FILES) == marked


def test_a_call_that_fails_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from gpu_parts.measure import Part, rows_of

    def fail() -> None:
        raise MemoryError("all of it")

    part = Part("cpu", 1000.0, True, tmp_path / "part.jsonl")
    rows = rows_of(part, {"base": lambda: torch.ones(9), "failing": fail}, 1000.0, baseline="base")
    assert [row["contestant"] for row in rows] == ["base", "failing (MemoryError: all of it)"]
    assert rows[0]["ratio"] == 1
    assert rows[0]["rounds"] == 3
    assert set(rows[1]) == {"contestant"}
    rows = rows_of(part, {"base": fail, "other": lambda: torch.ones(9)}, 1000.0, baseline="base")
    assert rows[0]["ratio"] is None


def test_the_time_that_a_gpu_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from gpu_parts.measure import covered

    assert covered([]) == 0
    assert covered([(1, 3), (5, 6), (0, 2), (5.2, 5.4)]) == 4  # overlaps count once


def test_a_report_of_what_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from gpu_parts.page import Page

    page = Page(tmp_path, {"device": "some"}, ["costs", "train-maml", "checks"])
    (tmp_path / "costs.jsonl").write_text(
        '{"table": "T", "rows": [{"contestant": "a|b", "ms": 2.5, "busy": 0.5}]}\n{"ta'
    )
    (tmp_path / "train-maml.jsonl").write_text(
        '{"progress": "MAML", "seconds": 3, "steps": 7, "accuracy": 0.5, "loss": 1}\n'
    )
    failure = '{"test": "t.py::test_x", "outcome": "failed", "message": "wrong"}\n'
    (tmp_path / "checks.jsonl").write_text(failure)
    page.look()
    text = (tmp_path / "report.md").read_text()
    assert "| contestant | median ms | busy share |\n|---|---:|---:|\n| a/b | 2.5 | 50 % |\n" in text
    assert "| MAML | 3 | 7 | stopped at 50 in training |" in text
    assert "0 passed, 1 failed, 0 skipped; the time was over before the last." in text
    assert "- FAILED `t.py::test_x`: wrong" in text
