"""Time and memory of a meta-gradient against inner steps: figure 2b of imaml.

One task of the size of 20-way 5-shot Omniglot, 100 drawings of 28x28 to learn from, and the net with four layers of 64
channels. The drawings are noise, as cost does not depend on what they show. Time is the median of ``--repeats``, with
the methods taking turns; memory is the peak of torch's tensors above what was held before.

    python examples/papers/imaml_fig2b.py
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
import tyro
from report import Row, Run, lines, print_table, save, verdict, write_csv
from rich.progress import track

import metafunc as mf

LR, PROX, CG_STEPS = 0.1, 2.0, 5
COLOURS = {"MAML": "#d55e00", "FOMAML": "#7f7f7f", "iMAML": "#0072b2"}


@dataclass(frozen=True)
class Options(Run):
    """Measure the costs of a meta-gradient."""

    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # Inner steps.
    queries: int = 5  # Drawings of each of the 20 characters.
    width: int = 64  # Channels of the net.
    repeats: int = 3
    threads: int = 1
    device: str = "cpu"


def costs(steps: int, options: Options) -> list[Row]:
    """A row for each method with so many inner steps."""
    torch.manual_seed(0)
    ways, shots = (5, 1) if options.quick else (20, 5)
    net = mf.nets.conv4(ways, channels=1, width=options.width, side=28, shrink="stride").to(options.device)
    loss = mf.functional(net, F.cross_entropy)
    support, query = (
        (
            torch.rand(ways * each, 1, 28, 28, device=options.device),
            torch.arange(ways, device=options.device).repeat_interleave(each),
        )
        for each in (shots, options.queries)
    )
    inner = mf.gradient_descent(loss, lr=LR, steps=steps)
    pulled = mf.gradient_descent(loss, lr=LR, steps=steps, prox=PROX)
    # rtol = 0: as many products as were asked for, whatever they find.
    implicit = mf.Implicit(mf.CG(max_steps=CG_STEPS, rtol=0.0))(pulled)
    found = mf.compare(
        loss,
        inner,
        loss.theta,
        support,
        query,
        estimators={"MAML": mf.Explicit(), "FOMAML": mf.FirstOrder(), "iMAML": implicit},
        repeats=options.repeats,
    )
    return [
        {"method": row.label, "steps": steps, "seconds": row.seconds, "megabytes": row.memory / 1e6}
        for row in found.rows
    ]


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    if options.quick:
        options = replace(options, steps=(2, 4, 8), width=8, queries=1, repeats=1)
    steps = options.steps
    rows = [row for k in track(steps, description="inner steps") for row in costs(k, options)]
    of = {(row["method"], row["steps"]): row for row in rows}
    for key, title in (("seconds", "s for a meta-gradient"), ("megabytes", "MB at the peak")):
        table = [{"method": m} | {f"K = {k}": of[m, k][key] for k in steps} for m in COLOURS]
        print_table(title, table)
    out = options.out / "imaml_fig2b"
    write_csv(rows, out / "costs.csv")
    titles = {"seconds": "time of a meta-gradient, s", "megabytes": "peak of memory, MB"}
    styles = {method: {"color": colour} for method, colour in COLOURS.items()}
    picture = lines(rows, "method", "steps", "inner gradient steps", titles, styles)
    save(picture, out / "imaml_fig2b.png")
    few, many = steps[0], steps[-1]

    def grown(method: str, key: str) -> float:
        return of[method, many][key] / of[method, few][key]

    def per_step(start: int, end: int) -> float:
        return (of["MAML", end]["megabytes"] - of["MAML", start]["megabytes"]) / (end - start)

    middle = steps[len(steps) // 2]
    early, late = per_step(few, middle), per_step(middle, many)
    order = [of[method, many]["seconds"] for method in ("FOMAML", "iMAML", "MAML")]
    verdict(
        {
            f"memory of iMAML is the same for K = {few} and {many}": grown("iMAML", "megabytes") < 1.05,
            f"memory of MAML grows linearly in K: {early:.1f} and {late:.1f} MB a step": abs(late / early - 1)
            < 0.05,
            f"time of iMAML at K = {many} is between FOMAML's and MAML's": order == sorted(order),
        }
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
