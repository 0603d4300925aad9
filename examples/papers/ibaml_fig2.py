"""Figure 2 of iBaML: time and memory of the backward pass by inner steps, explicit and implicit, Bayesian and not.

The net of section 4.2 (Zhang et al. 2023): four blocks of 32 channels on images of 84x84, 5 ways, 1 shot; made-up
images, since cost does not depend on what they show. One task; 15 queries a class in the paper, ``--queries`` here.
Each cell has a process of its own. Time is that of the pull-back alone, after the forward pass; memory is the peak of
torch's tensors above what was held before the whole call, forward pass included, as torch.profiler records it.

    python examples/papers/ibaml_fig2.py
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from matplotlib.figure import Figure
from rich.progress import track
from torch.profiler import ProfilerActivity, profile

import metafunc as mf
from metafunc import bayes

COLOURS = {"MAML": "#e2a294", "ABML": "#c8553d", "iMAML": "#9db4c8", "iBaML": "#1b3a5c"}


@dataclass(frozen=True)
class Options:
    """The size of the experiment."""

    steps: tuple[int, ...] = (1, 2, 5, 10, 20)  # K.
    cg_steps: tuple[int, ...] = (2, 5)  # L.
    samples: int = 1  # Of the posterior.
    queries: int = 1  # Of each class.
    quick: bool = False  # A small net and two values of K.
    cell: str = ""  # Measure this one in this process.
    out: Path = Path("runs/papers")


def cell(name: str, steps: int, options: Options) -> dict[str, Any]:
    """The figures of one cell; to be called once in a process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    side = 20 if options.quick else 84
    net = mf.nets.conv4(5, width=8 if options.quick else 32, side=side)
    model = mf.functional(net, F.cross_entropy)
    support = torch.randn(5, 3, side, side), torch.arange(5)
    query = torch.randn(5 * options.queries, 3, side, side), torch.arange(5).repeat(options.queries)
    method, _, cg_steps = name.partition(", L = ")
    estimator = mf.Implicit(mf.CG(max_steps=int(cg_steps), rtol=0.0)) if cg_steps else mf.Explicit()
    if method in ("MAML", "iMAML"):
        adapt = estimator(mf.gradient_descent(model, lr=0.01, steps=steps, prox=1.0))
        args: tuple[Any, ...] = model.theta, support
        outer: Callable[[Any], torch.Tensor] = lambda phi: model(phi, query)  # noqa: E731
    else:
        elbo = bayes.Elbo(model, kl_weight=0.2, sampling=mf.Loop())
        adapt = estimator(mf.gradient_descent(**elbo.problem, lr=0.01, steps=steps))
        theta, draws = bayes.prior(model.theta, 0.2), torch.Generator().manual_seed(0)
        inside, outside = (bayes.noise(theta["mean"], options.samples, draws) for _ in range(2))
        args = theta, support, inside
        outer = lambda phi: elbo.expected(phi, query, outside)  # noqa: E731

    def once() -> float:
        phi, pull = adapt.linearize(*args)
        slope = torch.func.grad(outer)(phi)
        start = time.perf_counter()
        pull(slope)
        return time.perf_counter() - start

    once()
    seconds = min(once() for _ in range(2))
    return {"estimator": name, "steps": steps, "seconds": seconds, "tensor_bytes": peak(once)}


def peak(run: Callable[[], object]) -> int:
    """The peak of torch's allocations above those at the start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    moves = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    held = highest = 0
    for _, size in moves:
        held += size
        highest = max(highest, held)
    return highest


def in_own_process(name: str, steps: int, options: Options) -> dict[str, Any]:
    command = [
        sys.executable,
        __file__,
        "--cell",
        name,
        "--steps",
        str(steps),
        "--queries",
        str(options.queries),
    ]
    command += ["--samples", str(options.samples), *["--quick"] * options.quick]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def chart(rows: list[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = (("seconds", 1, "time of the backward pass, s"), ("tensor_bytes", 1e-6, "peak of tensors, MB"))
    for axes, (key, scale, title) in zip(figure.subplots(1, 2), panels, strict=True):
        for name in dict.fromkeys(row["estimator"] for row in rows):
            own = [row for row in rows if row["estimator"] == name]
            method, _, cg_steps = name.partition(", L = ")
            heights = [scale * row[key] for row in own]
            style = "--" if cg_steps == "2" else "-"
            steps = [row["steps"] for row in own]
            axes.plot(steps, heights, style, marker="o", markersize=4, color=COLOURS[method], label=name)
        axes.set(xlabel="inner gradient steps K", ylim=(0, None))
        axes.set_title(title, fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", linewidth=0.3)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right center", frameon=False)
    figure.savefig(path, dpi=130)
    print(f"wrote {path}")


def main(options: Options) -> None:
    if options.cell:
        print(json.dumps(cell(options.cell, options.steps[0], options)))
        return
    steps, cg_steps = ((1, 3), (2,)) if options.quick else (options.steps, options.cg_steps)
    names = ["MAML", *(f"iMAML, L = {n}" for n in cg_steps), "ABML", *(f"iBaML, L = {n}" for n in cg_steps)]
    cells = [(name, k) for name in names for k in steps]
    measure = cell if options.quick else in_own_process
    rows = [measure(name, k, options) for name, k in track(cells, description="cells")]
    for name in names:
        own = [row for row in rows if row["estimator"] == name]
        times = [
            f"K = {row['steps']}: {row['seconds']:.2f} s {row['tensor_bytes'] / 1e6:.0f} MB" for row in own
        ]
        print(f"{name:14}" + "  ".join(times))
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "ibaml_fig2.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {options.out / 'ibaml_fig2.csv'}")
    chart(rows, options.out / "ibaml_fig2.png")


if __name__ == "__main__":
    main(tyro.cli(Options))
