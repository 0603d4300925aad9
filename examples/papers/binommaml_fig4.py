"""Time, memory and use of the cores of a meta-gradient against L: figure 4 of binommaml.

The paper's net (four layers of 32 channels) and task (5 ways, 1 shot, 15 queries, images of 84x84, K = 5); the images
are noise, as cost does not depend on what they show. Time is the median of ``--repeats``, with the methods taking
turns; memory is the peak of torch's tensors above what was held before; use of the cores is processor time over time on
the clock, where the paper has the utilisation of a GPU. One task: a batch is a loop over these on a CPU.

    python examples/papers/binommaml_fig4.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from report import Row, Run, lines, print_table, save, verdict, write_csv
from rich.progress import track

import metafunc as mf

K, LR = 5, 0.01
COLOURS = {"TruncMAML": "#d55e00", "BinomMAML": "#0072b2"}


@dataclass(frozen=True)
class Options(Run):
    """Measure the costs of a meta-gradient."""

    queries: int = 15  # Images of each class.
    repeats: int = 5
    threads: int = 2
    device: str = "cpu"


def gradients(options: Options) -> dict[tuple[str, int], Callable[[], Any]]:
    """The meta-gradient by method and L, as calls. At L = 0 and K both are FOMAML and MAML."""
    torch.manual_seed(0)
    side, width = (20, 8) if options.quick else (84, 32)
    net = mf.nets.conv4(5, width=width, side=side).to(options.device)
    loss = mf.functional(net, F.cross_entropy)
    support, query = (
        (
            torch.randn(5 * each, 3, side, side, device=options.device),
            torch.arange(5, device=options.device).repeat_interleave(each),
        )
        for each in (1, options.queries)
    )
    inner = mf.gradient_descent(loss, lr=LR, steps=K)

    def call(estimator: mf.Estimator) -> Callable[[], Any]:
        of_task = mf.meta_grad(loss, estimator(inner))
        return lambda: of_task(loss.theta, support, query).grad

    first, exact = call(mf.FirstOrder()), call(mf.Explicit())
    ends = {(name, n): fn for name in COLOURS for n, fn in ((0, first), (K, exact))}
    between = range(1, K)
    truncated = {("TruncMAML", n): call(mf.Truncated(n)) for n in between}
    return ends | truncated | {("BinomMAML", n): call(mf.Binomial(n)) for n in between}


def measure(options: Options) -> list[Row]:
    """A row for each method and L."""
    calls = gradients(options)
    clocks: dict[tuple[str, int], list[tuple[float, float]]] = {key: [] for key in calls}

    def synchronize() -> None:
        if options.device != "cpu":
            torch.cuda.synchronize(options.device)

    for turn in track(range(options.repeats + 1), description="repeats"):
        for key, fn in calls.items():
            synchronize()
            wall, processor = time.perf_counter(), time.process_time()
            fn()
            synchronize()
            if turn:  # the first call is a warm-up
                clocks[key].append((time.perf_counter() - wall, time.process_time() - processor))
    return [
        {"method": method, "L": n, "seconds": median(wall for wall, _ in clocks[method, n])}
        | {"megabytes": mf.peak_memory(fn, options.device) / 1e6}
        | {"use": median(processor / wall / options.threads for wall, processor in clocks[method, n])}
        for (method, n), fn in sorted(calls.items())
    ]


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, queries=1, repeats=1, threads=1)
    torch.set_num_threads(options.threads)
    rows = measure(options)
    print_table(f"Cost of a meta-gradient, {options.threads} threads", rows)
    out = options.out / "binommaml_fig4"
    write_csv(rows, out / "costs.csv")
    titles = {
        "seconds": "time of a meta-gradient, s",
        "megabytes": "peak of memory, MB",
        "use": "use of the cores",
    }
    styles = {method: {"color": colour} for method, colour in COLOURS.items()}
    save(lines(rows, "method", "L", "L (0: FOMAML, 5: MAML)", titles, styles), out / "binommaml_fig4.png")
    of = {(row["method"], row["L"]): row for row in rows}
    ratios = [of["BinomMAML", n]["seconds"] / of["TruncMAML", n]["seconds"] for n in range(1, K)]
    maml = of["BinomMAML", K]["megabytes"]
    less = [of["BinomMAML", n]["megabytes"] / maml for n in range(1, K)]
    print("time of BinomMAML over TruncMAML's, L = 1 to 4:", *(f"{r:.2f}" for r in ratios))
    print("memory of BinomMAML over MAML's, L = 1 to 4:", *(f"{r:.2f}" for r in less))
    verdict(
        {
            "BinomMAML takes at most a quarter longer than TruncMAML": max(ratios) < 1.25,
            "BinomMAML takes less memory than MAML at every L": max(less) < 1,
            "BinomMAML's memory falls with L": less == sorted(less, reverse=True),
        }
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
