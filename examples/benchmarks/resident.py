"""Resident memory over many meta-steps: does anything grow?

Every estimator meta-trains a small conv net by ``mf.MetaOptimizer`` in a process of its own. The table has the
resident memory after a tenth of the meta-steps and after all of them, and the growth in between.

    python examples/benchmarks/resident.py
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
from pathlib import Path

import torch
from problems import pictures
from report import Row, machine, print_table, write_csv

import metafunc as mf

ESTIMATORS = {
    "Explicit()": mf.Explicit(),
    "Explicit(checkpoint=True)": mf.Explicit(checkpoint=True),
    "FirstOrder()": mf.FirstOrder(),
    "Truncated(2)": mf.Truncated(2),
    "Binomial(2)": mf.Binomial(2),
    "Implicit()": mf.Implicit(),
    "FiniteDifference()": mf.FiniteDifference(),
    "Reptile()": mf.Reptile(),
}


def resident() -> int:
    """The resident memory of this process in bytes."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def train(name: str, steps: int) -> tuple[int, int]:
    """Resident memory after a tenth of the steps, and after all."""
    problem = pictures(torch.float32, 0, tasks=2, channels=4, blocks=3)
    estimator = ESTIMATORS[name]
    prox = 2.0 if isinstance(estimator, mf.Implicit | mf.FiniteDifference) else 0.0
    meta = mf.MetaOptimizer(
        problem.net,
        problem.criterion,
        torch.optim.Adam(problem.net.parameters(), lr=1e-3),
        lambda p: mf.gradient_descent(**p, lr=0.01, steps=3, prox=prox),
        estimator,
    )
    early = 0
    for k in range(steps):
        meta.step((problem.support, problem.query))
        if k == steps // 10:
            early = resident()
    return early, resident()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where the table goes")
    parser.add_argument("--quick", action="store_true", help="twenty steps")
    parser.add_argument("--only", choices=ESTIMATORS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    steps = 20 if options.quick else options.steps
    if options.only:
        print(*train(options.only, steps))
        return
    print(machine())
    rows: list[Row] = []
    for name in ESTIMATORS:
        command = [sys.executable, __file__, "--only", name, "--steps", str(steps)]
        early, late = map(
            int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        )
        rows.append(
            {
                "estimator": name,
                f"MB after {steps // 10} steps": f"{early / 1e6:.1f}",
                f"after {steps}": f"{late / 1e6:.1f}",
                "growth": f"{(late - early) / 1e6:.1f}",
            }
        )
    print_table(f"Resident memory over {steps} meta-steps", rows)
    write_csv(options.out / "resident.csv", rows)


if __name__ == "__main__":
    main()
