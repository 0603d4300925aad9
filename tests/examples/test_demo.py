from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.examples import program

for needed in ("rich", "matplotlib", "tyro"):
    pytest.importorskip(needed, reason=f"the demo needs {needed}")

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


def is_whole(folder: Path, text: str) -> bool:
    lines = text.splitlines()
    table = all(
        any(re.match(re.escape(name) + r"  +[\d.e+-]+ ", line) for line in lines) for name in ESTIMATORS
    )
    return table and (folder / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_a_short_run_measures_compares_and_draws(tmp_path: Path) -> None:
    found = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        text = program.run("demo.py", tmp_path, *SMALL, "--steps", 2, "--output", folder)
        assert is_whole(folder, text), text
        found.append(re.findall(r"(before|after) meta-training +([\d.]+)% ± ([\d.]+)%", text))
    assert [when for when, *_ in found[0]] == ["before", "after"]
    assert found[0] == found[1], "equal steps and seed on a CPU, but other accuracies"


class Watched(io.StringIO):
    """Remembers what Ctrl-C would do when the program says that it has got one."""

    then: object = None

    def write(self, text: str) -> int:
        if text.startswith("Ctrl-C: ending"):
            self.then = signal.getsignal(signal.SIGINT)
        return super().write(text)


def test_ctrl_c_ends_with_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, taken = torch.optim.Adam.step, []

    def interrupted(adam: torch.optim.Adam) -> None:
        step(adam)
        taken.append(adam)
        if len(taken) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(torch.optim.Adam, "step", interrupted)
    options = (*SMALL, "--seconds", 1e6, "--output", tmp_path)
    done = program.start("demo.py", tmp_path, *options, out=(watched := Watched()))
    assert done.status == 0, done.errors
    assert "Ctrl-C: ending after 2 steps" in done.out
    assert "after meta-training" in done.out
    assert is_whole(tmp_path, done.out), done.out
    assert watched.then == signal.SIG_DFL, "the second one would not quit at once"


@pytest.mark.exhaustive
def test_a_second_ctrl_c_quits_at_once(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(program.ROOT), "PYTHONUNBUFFERED": "1"}
    command = [
        sys.executable,
        str(program.EXAMPLES / "demo.py"),
        *SMALL,
        "--seconds",
        "1000000",
        "--output",
        str(tmp_path),
    ]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(("before meta-training", "Ctrl-C: ending")):
                    process.send_signal(signal.SIGINT)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT
    assert not (tmp_path / "demo.png").exists()
