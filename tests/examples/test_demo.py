from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

for needed in ("rich", "matplotlib", "tyro"):
    pytest.importorskip(needed, reason=f"the demo needs {needed}")

ROOT = Path(__file__).resolve().parents[2]
ESTIMATORS = (
    "Explicit()",
    "Explicit(checkpoint=True)",
    "Binomial(order=1)",
    "Binomial(order=2)",
    "Truncated(depth=1)",
    "Truncated(depth=2)",
    "FirstOrder()",
    "Reptile()",
    "Implicit(solver=CG(max_steps=5)) *",
    "FiniteDifference() *",
)
SMALL = ("--eval-tasks", "20", "--width", "4", "--tasks", "2", "--inner-steps", "2")


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "100"}
    command = [sys.executable, str(ROOT / "examples/demo.py"), "--output", str(folder), *SMALL, *options]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def interrupt_after(process: subprocess.Popen[str], beginning: str, wait: float = 0.0) -> None:
    assert process.stdout is not None
    for line in iter(process.stdout.readline, ""):
        if line.startswith(beginning):
            time.sleep(wait)
            return process.send_signal(signal.SIGINT)
    raise AssertionError(f"the demo ended before it printed {beginning!r}")


def is_whole(folder: Path, text: str) -> bool:
    lines = text.splitlines()
    table = all(
        any(re.match(re.escape(name) + r"  +[\d.e+-]+ ", line) for line in lines) for name in ESTIMATORS
    )
    return table and (folder / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_a_short_run_measures_compares_and_draws(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    processes, found = [start(folder, "--steps", "3") for folder in folders], []
    for folder, process in zip(folders, processes, strict=True):
        text, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert is_whole(folder, text), text
        found.append(re.findall(r"(before|after) meta-training +([\d.]+)% ± ([\d.]+)%", text))
    assert [when for when, *_ in found[0]] == ["before", "after"]
    assert found[0] == found[1], "equal steps and seed on a CPU, but other accuracies"


def test_ctrl_c_ends_with_what_there_is(tmp_path: Path) -> None:
    process = start(tmp_path, "--seconds", "1000")
    interrupt_after(process, "before meta-training")
    text, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and "Traceback" not in errors, errors
    assert re.search(r"Ctrl-C: ending after \d+ steps", text), text
    assert "after meta-training" in text
    assert is_whole(tmp_path, text), text


def test_a_second_ctrl_c_quits_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, "--seconds", "1000")
    interrupt_after(process, "before meta-training", wait=1.0)  # well into the training by then
    interrupt_after(process, "Ctrl-C: ending")
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT
    assert not (tmp_path / "demo.png").exists()
