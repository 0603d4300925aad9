"""What a GPU says of metafunc, in one command that ends within minutes and writes as it goes.

    make gpu
    python3 examples/benchmarks/gpu.py                          # from the checkout, nothing has to be installed
    python3 examples/benchmarks/gpu.py --device cpu --quick     # does the command itself work

The tests on the device; times, memory, kernels and use of the device of a meta-gradient by every contestant; figure 4
of binommaml; trainings on Omniglot in a minute each; JAX and torch.compile beside it. Each part runs in a process of
its own, so that one that fails, hangs or runs out of memory costs nothing but itself. ``runs/gpu/report.md`` is written
anew after every figure, whatever stops the rest.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

MODULES = {"higher", "torchopt", "jax", "matplotlib", "xdist", "hypothesis"}
"""What is left out where it is not installed."""


@dataclass(frozen=True)
class Planned:
    """A part: the function that it is, and its seconds of eight minutes."""

    module: str
    function: str
    seconds: float
    method: str = ""
    needs: str = ""


METHODS = {"maml": "MAML", "fomaml": "FOMAML", "binommaml": "BinomMAML, L = 2", "imaml": "iMAML"}
PARTS = {
    "checks": Planned("checks", "checks", 110),
    "costs": Planned("costs", "costs", 75),
    "figure4": Planned("costs", "figure4", 20),
    **{f"train-{name}": Planned("training", "train", 0, method) for name, method in METHODS.items()},
    "jax": Planned("jax_loop", "jax_too", 25, needs="jax"),
    "compiled": Planned("compiled", "compiled", 45),
}
"""In order of value, which is that in which they run."""

AROUND = 14.0
"""Seconds of a training beside the training itself: its start, and its test."""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--only", default="", help=f"some parts, with commas: {', '.join([*PARTS, 'train'])}")
    parser.add_argument(
        "--data", type=Path, help="Omniglot in any form of docs/data.md, such as the packed file"
    )
    parser.add_argument(
        "--train-seconds", type=float, default=60.0, help="for each training, if there is time"
    )
    parser.add_argument("--device", default="", help="cuda or cpu; a GPU if torch sees one")
    parser.add_argument("--quick", action="store_true", help="tiny problems, to see whether all works")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    known = {*PARTS, "train"}
    wanted = [name.strip() for name in given.only.split(",") if name.strip()] or list(PARTS)
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"--only: expected some of {', '.join(sorted(known))}, got {', '.join(unknown)}")
    given.parts = [
        name for name in PARTS if name in wanted or ("train" in wanted and name.startswith("train"))
    ]
    if given.data is not None and not given.data.exists():
        parser.error(f"--data: there is no {given.data}")
    return given


def run_here(name: str, given: argparse.Namespace) -> None:
    """One part, in this process."""
    from gpu_parts.measure import Part

    plan = PARTS[name]
    data = None if given.data is None else str(given.data)
    part = Part(
        given.device,
        given.seconds,
        given.quick,
        given.out / f"{name}.jsonl",
        method=plan.method,
        train_seconds=given.train_seconds,
        data=data,
    )
    function: Callable[[Any], None] = getattr(import_module(f"gpu_parts.{plan.module}"), plan.function)
    function(part)


class Whole:
    """All parts in turn, within a time."""

    def __init__(self, given: argparse.Namespace, machine: dict[str, Any]) -> None:
        from gpu_parts.page import Page

        self.given, self.start = given, time.monotonic()
        self.page = Page(given.out, machine, given.parts)
        self.training = given.train_seconds

    @property
    def left(self) -> float:
        return 60 * self.given.minutes - (time.monotonic() - self.start)

    def run(self) -> None:
        """Every part; how each ended is in the report."""
        waiting = list(self.given.parts)
        while waiting:
            name = waiting.pop(0)
            plan = PARTS[name]
            if plan.needs and find_spec(plan.needs) is None:
                self.page.ended(name, f"left out: {plan.needs} is not installed", 0.0)
                continue
            seconds = self.seconds(name, waiting)
            if self.left < 5:
                self.page.ended(name, "left out: no time was left", 0.0)
                continue
            begun = time.monotonic()
            try:
                self.page.begun(name)
                state = self.child(name, seconds)
            except KeyboardInterrupt:
                self.page.ended(name, "interrupted", time.monotonic() - begun)
                raise
            self.page.ended(name, state, time.monotonic() - begun)

    def seconds(self, name: str, waiting: list[str]) -> float:
        """What a part gets: its share, and all that others have left if it trains."""
        plan, scale = PARTS[name], self.given.minutes / 8
        if plan.method:
            trainings = [name, *(other for other in waiting if PARTS[other].method)]
            reserved = sum(scale * PARTS[other].seconds for other in waiting if self.installed(other))
            # The same for all, so that what comes of them can be compared.
            if len(trainings) == sum(bool(PARTS[other].method) for other in self.given.parts):
                free = (self.left - reserved) / len(trainings) - AROUND
                self.training = max(min(self.given.train_seconds, free), 1.0)
            return self.training + 2 * AROUND
        return min(scale * plan.seconds, self.left)

    def installed(self, name: str) -> bool:
        return not PARTS[name].needs or find_spec(PARTS[name].needs) is not None

    def child(self, name: str, seconds: float) -> str:
        """One part in a process of its own, and how it ended."""
        given = self.given
        command = [sys.executable, __file__, "--part", name, "--seconds", f"{seconds:.1f}"]
        command += [
            "--device",
            given.device,
            "--out",
            str(given.out),
            "--train-seconds",
            f"{self.training:.1f}",
        ]
        command += ["--data", str(given.data)] if given.data else []
        command += ["--quick"] if given.quick else []
        # Single precision is to be that, for all contestants, and not TF32, which libraries would take for it.
        environment = {"NVIDIA_TF32_OVERRIDE": "0", "KINETO_LOG_LEVEL": "6"} | os.environ
        log = given.out / f"{name}.log"
        limit = min(seconds + 10, self.left)
        with log.open("w") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
            end = time.monotonic() + limit
            try:
                while process.poll() is None and time.monotonic() < end:
                    time.sleep(0.2)
                    self.page.look()
                if process.poll() is None:
                    return f"stopped after {limit:.0f} s"
            finally:
                stop(process)
        return "done" if process.returncode == 0 else f"failed ({last_line(log)})"


PATIENCE = 3.0
"""Seconds that a part has to end in once it is asked to."""


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a part and what it has started."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signal_number)
        except ProcessLookupError:
            break
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "without a word"


def main() -> None:
    given = options()
    import torch

    given.device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if given.device != "cpu" and not torch.cuda.is_available():
        sys.exit(
            "--device: torch sees no CUDA device here; --device cpu --quick shows that the command works"
        )
    if given.part:
        run_here(given.part, given)
        return
    from gpu_parts.page import machine

    given.out.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        for old in (given.out / f"{name}.jsonl", given.out / f"{name}.log"):
            old.unlink(missing_ok=True)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    missing = sorted(name for name in MODULES if find_spec(name) is None)
    whole = Whole(given, machine(given.device, missing, given.quick))
    try:
        whole.run()
    except KeyboardInterrupt:
        print("interrupted")
        sys.exit(130)
    finally:
        whole.page.write(pictures=True)
        print(f"wrote {given.out / 'report.md'}")


if __name__ == "__main__":
    main()
