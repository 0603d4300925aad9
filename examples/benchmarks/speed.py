"""The time of a meta-gradient over a batch of tasks: metafunc beside autograd, higher, TorchOpt and torch.func.

Exact MAML on two problems: regression on sinusoids by a small MLP (25 tasks), and 5-way 5-shot classification of
28x28 pictures by a conv net (4 tasks). First every exact contestant must give the same gradient in float64; then
all are timed in float32, taking turns, so that whatever else the machine does hits all of them alike. Beside the
time the table says what each must do for a task according to its docstring, and what it was counted doing.

    python examples/benchmarks/speed.py                 # minutes
    python examples/benchmarks/speed.py --compile       # torch.compile of the whole meta-gradient as well
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.compiler.config
from agreement import difference, differences
from contestants import Contestant, contestants, over_tasks, plain_loop, unrolled
from problems import Count, Params, Problem, Tally, pictures, sinusoid
from report import ACCENT, INK, MUTED, Row, machine, print_table, write_csv
from rich.console import Console
from rich.progress import track

import metafunc as mf


@dataclass
class Times:
    """Seconds of every round: on the clock, and of processor time, which a busy machine disturbs less."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def counts(problem: Problem) -> dict[str, Count]:
    """What every contestant does with the network for one task."""
    (tally,) = (m for m in problem.net.modules() if isinstance(m, Tally))
    found: dict[str, Count] = {}
    for row in contestants(problem)[0]:
        call = row.tally or row.run
        call()  # the first call finds out how to differentiate twice, by a product of its own
        tally.count = count = Count()
        call()
        tally.count = None
        found[row.name] = Count([n // problem.tasks for n in count.passes])
    return found


def time_all(runs: dict[str, Callable[[], object]], repeats: int, seed: int, title: str) -> dict[str, Times]:
    """Time all of them ``repeats`` times, in turns and each round in another order."""
    for run in runs.values():
        run()
        run()
    gc.collect()
    gc.freeze()  # what is there already need not be looked through before every run
    times = {name: Times() for name in runs}
    order, chance = list(runs), random.Random(seed)
    for _ in track(range(repeats), description=title, console=Console(stderr=True)):
        chance.shuffle(order)
        for name in order:
            gc.collect()  # so that nobody pays for what the one before left behind
            wall, cpu = time.perf_counter(), time.process_time()
            runs[name]()
            times[name].wall.append(time.perf_counter() - wall)
            times[name].cpu.append(time.process_time() - cpu)
    return times


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def compiled(problem: Problem) -> dict[str, tuple[Callable[[], Params] | None, float, str]]:
    """``torch.compile`` of whole meta-gradients: the call, the seconds it took, and the error if there was one."""
    adapt = mf.Explicit()(mf.gradient_descent(problem.loss, lr=problem.lr, steps=problem.steps))
    meta_losses = {
        "compiled textbook vmap(grad)": unrolled(problem),
        "compiled mf vmap(grad(..)) Explicit()": lambda th, s, q: problem.loss(adapt(th, s), q),
    }
    torch.compiler.config.force_disable_caches = (
        True  # else the second run of this script would be told another time
    )
    found: dict[str, tuple[Callable[[], Params] | None, float, str]] = {}
    for name, meta_loss in meta_losses.items():
        run = over_tasks(problem, meta_loss, torch.compile)
        start = time.perf_counter()
        try:
            run()
            found[name] = (run, time.perf_counter() - start, "")
        except Exception as error:  # whatever the compiler raises is the result for this row
            found[name] = (None, time.perf_counter() - start, f"{type(error).__name__}: {str(error)[:200]}")
    return found


def benchmark(
    make: Callable[[torch.dtype], Problem], repeats: int, seed: int, compile_too: bool
) -> list[Row]:
    """All rows of one problem."""
    apart = differences(make(torch.float64))
    count = counts(make(torch.float64))
    problem = make(torch.float32)
    entries, missing = contestants(problem)
    worst = max(apart[row.name] for row in entries if row.exact)
    print(f"\n{problem.name}: {sum(row.exact for row in entries)} exact contestants agree in float64")
    print(f"max relative difference {worst:.1e}")

    runs: dict[str, Callable[[], object]] = {row.name: row.run for row in entries}
    extra = compiled(problem) if compile_too else {}
    runs |= {name: run for name, (run, _, _) in extra.items() if run is not None}
    times = time_all(runs, repeats, seed, problem.name)
    rows = [_row(problem, row, times, apart[row.name], count[row.name]) for row in entries]
    blank = dict.fromkeys(rows[0], "")
    reference = plain_loop(problem) if extra else {}
    for name, (run, seconds, error) in extra.items():
        row = blank | {
            "problem": problem.name,
            "contestant": name,
            "note": error,
            "compile_s": f"{seconds:.1f}",
        }
        if run is not None:
            row |= _timing(times, name) | {
                "kind": "exact",
                "float32_difference": difference(run(), reference),
            }
        rows.append(row)
    rows += [
        blank | {"problem": problem.name, "contestant": name, "note": "not installed"} for name in missing
    ]
    return rows


def _timing(times: dict[str, Times], name: str) -> Row:
    ours, base = times[name], times["plain autograd loop"]
    quartiles = statistics.quantiles(ours.wall, n=4) if len(ours.wall) > 1 else [ours.wall[0]] * 3
    return {
        "median_ms": 1e3 * statistics.median(ours.wall),
        "lower_quartile_ms": 1e3 * quartiles[0],
        "upper_quartile_ms": 1e3 * quartiles[2],
        "min_ms": 1e3 * min(ours.wall),
        "cpu_ms": 1e3 * statistics.median(ours.cpu),
        "ratio": ratio(ours.wall, base.wall),
        "cpu_ratio": ratio(ours.cpu, base.cpu),
    }


def _row(problem: Problem, row: Contestant, times: dict[str, Times], apart: float, count: Count) -> Row:
    return {
        "problem": problem.name,
        "contestant": row.name,
        "kind": "exact" if row.exact else "estimate",
        "prox": row.prox,
        "difference": apart,
        **_timing(times, row.name),
        "need_gradients": row.need.gradients,
        "need_products": row.need.products,
        "counted_gradients": count.gradients,
        "counted_products": count.products,
        "counted_forwards": count.forwards,
        "compile_s": "",
        "float32_difference": "",
        "note": "",
    }


def show(rows: list[Row]) -> None:
    """Print the table of one problem."""

    def figure(value: object, style: str) -> str:
        return "" if value == "" else format(value, style)

    def pair(gradients: object, products: object) -> str:
        return "" if gradients == "" else f"{gradients}+{products}"

    print_table(
        f"{rows[0]['problem']}, float32; ratios to the plain loop, smaller is faster; counts for one task",
        [
            {
                "contestant": row["contestant"] + (f" prox {row['prox']:g}" if row["prox"] else ""),
                "median ms": row["note"] or figure(row["median_ms"], ".1f"),
                "quartiles": ""
                if row["median_ms"] == ""
                else f"{row['lower_quartile_ms']:.0f}-{row['upper_quartile_ms']:.0f}",
                "ratio": figure(row["ratio"], ".2f"),
                "cpu ratio": figure(row["cpu_ratio"], ".2f"),
                "from exact": figure(row["difference"], ".0e"),
                "docs: grads+HVPs": pair(row["need_gradients"], row["need_products"]),
                "counted": pair(row["counted_gradients"], row["counted_products"]),
                "forwards": row["counted_forwards"],
                "compile s": row["compile_s"],
            }
            for row in rows
        ],
    )


def chart(rows: list[Row], path: Path) -> None:
    """Bars of the ratios, a panel for each problem."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["problem"] for row in rows))
    height = max(sum(row["problem"] == name for row in rows) for name in names)
    figure, axes = plt.subplots(1, len(names), figsize=(6.6 * len(names), 0.8 + 0.34 * height), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        own = [row for row in rows if row["problem"] == name and row["ratio"] != ""]
        colours = [
            ACCENT
            if "mf" in row["contestant"].split()[:2] and row["kind"] == "exact"
            else MUTED
            if row["kind"] == "estimate"
            else INK
            for row in own
        ]
        bars = axis.barh([row["contestant"] for row in own], [row["ratio"] for row in own], color=colours)
        axis.bar_label(bars, [f" {row['ratio']:.2f}  ({row['median_ms']:.3g} ms)" for row in own], fontsize=8)
        axis.axvline(1, color=INK, linewidth=0.8, linestyle=":")
        axis.set(
            title=name,
            xlabel="time / time of the plain autograd loop",
            xlim=(0, 1.35 * max(r["ratio"] for r in own)),
        )
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    figure.text(
        0.5,
        0,
        "blue: others, exact   red: metafunc, exact   grey: metafunc, estimates",
        ha="center",
        va="top",
        fontsize=8,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=150, bbox_inches="tight")
    print(f"wrote {path}")


def main() -> None:
    """Read the command line, run, and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problem", choices=["sinusoid", "pictures", "both"], default="both")
    parser.add_argument(
        "--repeats", type=int, default=0, help="rounds; 0: 30 for the MLP, 9 for the conv net"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch; one is least disturbed by other programs"
    )
    parser.add_argument("--compile", action="store_true", help="also torch.compile(vmap(grad(meta_loss)))")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny problems and two rounds, in seconds")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    print(machine())
    small_mlp, small_net = {"tasks": 2}, {"tasks": 2, "steps": 2, "blocks": 2, "channels": 4}
    makers: list[tuple[str, Callable[[torch.dtype], Problem], int]] = [
        ("sinusoid", lambda d: sinusoid(d, options.seed, **(small_mlp if options.quick else {})), 30),
        ("pictures", lambda d: pictures(d, options.seed, **(small_net if options.quick else {})), 9),
    ]
    rows: list[Row] = []
    for name, make, repeats in makers:
        if options.problem in (name, "both"):
            repeats = options.repeats or (2 if options.quick else repeats)
            found = benchmark(make, repeats, options.seed, options.compile)
            show(found)
            rows += found
    print()
    write_csv(options.out / "speed.csv", rows)
    chart(rows, options.out / "speed.png")


if __name__ == "__main__":
    main()
