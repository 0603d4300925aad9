"""How much memory one meta-gradient takes on a conv net, for K = 4, 16 and 64 inner steps.

Every cell is measured in a process of its own, and twice, because no single figure is the whole truth:

- *tensors*: the peak of what torch's allocator has handed out, above what it held before the call, from the
  events that torch.profiler records. It does not depend on the machine; it misses what libraries below torch take.
- *process*: the growth of the peak resident set (ru_maxrss) above its height after the imports, the data and one
  forward and backward pass. It has everything in it, the allocator's slack included, and misses what fits into
  memory that the warm-up has left behind: a cell that needs no more than one gradient reads about 0.

    python examples/benchmarks/memory.py               # one task
    python examples/benchmarks/memory.py --tasks 4     # metafunc's tasks all at once, the plain loop's in turn
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from contestants import PROX, over_tasks, plain_loop, unrolled
from problems import Problem, pictures
from report import ACCENT, INK, MUTED, Row, machine, print_table, write_csv
from rich.console import Console
from rich.progress import Progress

import metafunc as mf

ESTIMATORS: dict[str, tuple[mf.Estimator, float]] = {
    "Explicit()": (mf.Explicit(), 0.0),
    "Explicit(checkpoint=True)": (mf.Explicit(checkpoint=True), 0.0),
    "Explicit(checkpoint=8)": (mf.Explicit(checkpoint=8), 0.0),
    "Truncated(2)": (mf.Truncated(2), 0.0),
    "Implicit(CG(5))": (mf.Implicit(mf.CG(max_steps=5)), PROX),
    "FiniteDifference()": (mf.FiniteDifference(), PROX),
}
"""metafunc's cells: the estimator, and the proximal term that it needs."""

BY_HAND: dict[str, Callable[[Problem], Callable[[], object]]] = {
    "plain autograd loop": lambda problem: lambda: plain_loop(problem),
    "textbook vmap(grad)": lambda problem: over_tasks(problem, unrolled(problem)),
}
"""The others."""


def runner(name: str, problem: Problem) -> Callable[[], object]:
    """The meta-gradient of one cell as a call."""
    if name in BY_HAND:
        return BY_HAND[name](problem)
    estimator, prox = ESTIMATORS[name]
    inner = mf.gradient_descent(problem.loss, lr=problem.lr, steps=problem.steps, prox=prox)
    of_batch = mf.meta_grad(problem.loss, estimator(inner), tasks=mf.Vmap())
    return lambda: of_batch(problem.theta, problem.support, problem.query).grad


def resident() -> int:
    """The peak resident set of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(name: str, problem: Problem) -> dict[str, int]:
    """The figures of one cell; to be called once in a process."""
    run = runner(name, problem)
    theta = {n: p.clone().requires_grad_() for n, p in problem.theta.items()}
    support, _ = problem.task(0)
    torch.autograd.grad(problem.loss(theta, support), list(theta.values()))
    gc.collect()
    before = resident()
    run()
    process = resident() - before
    return {"process_bytes": process, "tensor_bytes": mf.peak_memory(run)}


def in_own_process(name: str, options: argparse.Namespace, steps: int) -> dict[str, int]:
    """The figures of one cell, from a fresh process."""
    command = [sys.executable, __file__, "--cell", name, "--steps", str(steps), "--tasks", str(options.tasks)]
    command += ["--seed", str(options.seed), "--threads", str(options.threads)]
    command += ["--quick"] * options.quick
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def show(rows: list[Row], tasks: int) -> None:
    """Print one table for each of the two figures."""
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    steps = sorted({row["steps"] for row in rows})
    for key, title in (
        ("tensor_bytes", "tensors: peak of torch's allocator above the start of the call"),
        (
            "process_bytes",
            "process: growth of ru_maxrss above imports, data and one forward and backward pass",
        ),
    ):
        by_cell = {(row["contestant"], row["steps"]): row[key] / 1e6 for row in rows}
        table: list[Row] = []
        for name in names:
            own = [k for k in steps if (name, k) in by_cell]
            cells = {f"K = {k}": f"{by_cell[name, k]:.1f}" if k in own else "-" for k in steps}
            grown = by_cell[name, own[-1]] - by_cell[name, own[0]]
            slope = f"{grown / (own[-1] - own[0]):.2f}" if len(own) > 1 else "-"
            table.append({"contestant": name, **cells, "per further step": slope})
        print_table(f"{title}, MB, {tasks} task(s)", table)


def chart(rows: list[Row], path: Path, tasks: int) -> None:
    """Memory against K, a panel for each of the two figures, each line with its name at its end."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FormatStrFormatter, LogLocator

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.8))
    panels = (
        ("tensor_bytes", "tensors: peak of torch's allocator"),
        ("process_bytes", "process: growth of ru_maxrss"),
    )
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    for axis, (key, title) in zip(axes, panels, strict=True):
        ends: list[tuple[float, str, str]] = []
        for name in names:
            own = [row for row in rows if row["contestant"] == name]
            # Zero has no logarithm; a tenth of a megabyte is as good as nothing here.
            heights = [max(row[key] / 1e6, 0.1) for row in own]
            colour = INK if name in BY_HAND else ACCENT if name.startswith("Explicit") else MUTED
            axis.plot([row["steps"] for row in own], heights, "o-", color=colour, linewidth=1.5, markersize=4)
            ends.append((heights[-1], name, colour))
        steps = sorted({row["steps"] for row in rows})
        axis.set(xscale="log", yscale="log", xlabel="inner steps K", ylabel="MB")
        axis.set_title(f"{title}, {tasks} task(s)", fontsize=10, loc="left")
        axis.set_xticks(steps, labels=[str(k) for k in steps])
        axis.minorticks_off()
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", linewidth=0.3)
        label_ends(axis, steps[-1], ends)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


def label_ends(axis: Any, x: float, ends: list[tuple[float, str, str]]) -> None:
    """Write every line's name beside its end, moved up where it would cover the one below."""
    low, high = axis.get_ylim()
    apart, floor = (high / low) ** 0.045, 0.0
    for y, name, colour in sorted(ends):
        floor = max(y, floor)
        axis.annotate(name, (x * 1.12, floor), fontsize=8, color=colour, va="center", annotation_clip=False)
        floor *= apart


def main() -> None:
    """Read the command line; then either measure one cell, or start a process for each and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 16, 64], help="K, any number of them")
    parser.add_argument("--threads", type=int, default=1, help="of torch; every one has buffers of its own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a small net, and few of the cells")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--cell", choices=[*BY_HAND, *ESTIMATORS], help="measure this one in this process")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    size: dict[str, Any] = {"blocks": 2, "channels": 8} if options.quick else {}
    if options.cell:
        problem = pictures(torch.float32, options.seed, steps=options.steps[0], tasks=options.tasks, **size)
        print(json.dumps(measure(options.cell, problem)))
        return

    if options.quick:
        cells = [("Explicit()", 2), ("Explicit()", 10), ("Implicit(CG(5))", 10)]
    else:
        cells = [(name, k) for name in (*BY_HAND, *ESTIMATORS) for k in sorted(options.steps)]
        cells = [(name, k) for name, k in cells if name != "Explicit(checkpoint=8)" or k >= 8]
    print(machine())
    rows: list[Row] = []
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=len(cells))
        for name, k in cells:
            progress.update(bar, description=f"{name}, K = {k}")
            rows.append(
                {"contestant": name, "tasks": options.tasks, "steps": k, **in_own_process(name, options, k)}
            )
            progress.advance(bar)
    show(rows, options.tasks)
    print()
    stem = f"memory_{options.tasks}_tasks"
    write_csv(options.out / f"{stem}.csv", rows)
    chart(rows, options.out / f"{stem}.png", options.tasks)


if __name__ == "__main__":
    main()
