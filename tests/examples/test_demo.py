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
SMALL = ("--eval-tasks", "10", "--width", "4", "--tasks", "2", "--inner-steps", "2")


def is_whole(folder: Path, text: str) -> bool:
    lines = text.splitlines()
    table = all(
        any(re.match(re.escape(name) + r"  +[\d.e+-]+ ", line) for line in lines) for name in ESTIMATORS
    )
    return table and (folder / "demo.png").read_bytes().startswith(b"\x89PNG")


class Watched(io.StringIO):
    """Remembers what Ctrl-C would do when the program says that it has got one."""

    then: object = None

    def write(self, text: str) -> int:
        if text.startswith("Ctrl-C: ending"):
            self.then = signal.getsignal(signal.SIGINT)
        return super().write(text)


def test_a_run_and_one_that_ctrl_c_makes_as_short_end_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal steps and seed on a CPU, so equal accuracies; and both measure, compare and draw."""
    whole = program.run("demo.py", tmp_path, *SMALL, "--steps", 1, "--output", tmp_path / "whole")
    assert is_whole(tmp_path / "whole", whole), whole
    step = torch.optim.Adam.step

    def interrupted(adam: torch.optim.Adam) -> None:
        step(adam)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(torch.optim.Adam, "step", interrupted)
    options = (*SMALL, "--steps", 1_000_000, "--output", tmp_path / "cut")
    cut = program.start("demo.py", tmp_path, *options, out=(watched := Watched()))
    assert cut.status == 0, cut.errors
    assert "Ctrl-C: ending after 1 steps" in cut.out
    assert is_whole(tmp_path / "cut", cut.out), cut.out
    assert watched.then == signal.SIG_DFL, "the second one would not quit at once"
    found = [
        re.findall(r"(before|after) meta-training +([\d.]+)% ± ([\d.]+)%", text) for text in (whole, cut.out)
    ]
    assert [when for when, *_ in found[0]] == ["before", "after"]
    assert found[0] == found[1]


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
