"""Figure 2 of iBaML: time and memory of the backward pass by inner steps, explicit and implicit, Bayesian and not.

The net of section 4.2 (Zhang et al. 2023): four blocks of 32 channels on images of 84x84, 5 ways, 1 shot; made-up
images, since cost does not depend on what they show. One task; 15 queries a class in the paper, ``--queries`` here.
Time is that of the pull-back alone, after the forward pass, the median of ``--repeats``; memory is the peak of torch's
tensors above what was held before the whole call, forward pass included.

    python examples/papers/ibaml_fig2.py
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from report import Row, Run, lines, print_table, save, verdict, write_csv
from rich.progress import track
from torch import Tensor

import metafunc as mf
from metafunc import bayes

COLOURS = {"MAML": "#e2a294", "ABML": "#c8553d", "iMAML": "#9db4c8", "iBaML": "#1b3a5c"}


@dataclass(frozen=True)
class Options(Run):
    """The size of the experiment."""

    steps: tuple[int, ...] = (1, 2, 5, 10, 20)  # K.
    cg_steps: tuple[int, ...] = (2, 5)  # L.
    samples: int = 1  # Of the posterior.
    queries: int = 1  # Of each class.
    repeats: int = 3


def cell(name: str, steps: int, options: Options) -> Row:
    """The time and the memory of one estimator with one number of inner steps."""
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

        def outer(phi: Any) -> Tensor:
            return model(phi, query)

    else:
        elbo = bayes.Elbo(model, kl_weight=0.2, sampling=mf.Loop())
        adapt = estimator(mf.gradient_descent(**elbo.problem, lr=0.01, steps=steps))
        theta, draws = bayes.prior(model.theta, 0.2), torch.Generator().manual_seed(0)
        inside, outside = (bayes.noise(theta["mean"], options.samples, draws) for _ in range(2))
        args = theta, support, inside

        def outer(phi: Any) -> Tensor:
            return elbo.expected(phi, query, outside)

    def once() -> float:
        phi, pull = adapt.linearize(*args)
        slope = torch.func.grad(outer)(phi)
        start = time.perf_counter()
        pull(slope)
        return time.perf_counter() - start

    once()
    seconds = median(once() for _ in range(options.repeats))
    return {"estimator": name, "steps": steps, "seconds": seconds, "megabytes": mf.peak_memory(once) / 1e6}


def main(options: Options) -> None:
    torch.set_num_threads(1)
    steps, cg_steps = ((1, 2, 4), (2,)) if options.quick else (options.steps, options.cg_steps)
    names = ["MAML", *(f"iMAML, L = {n}" for n in cg_steps), "ABML", *(f"iBaML, L = {n}" for n in cg_steps)]
    cells = [(name, k) for name in names for k in steps]
    rows = [cell(name, k, options) for name, k in track(cells, description="cells")]
    of = {(row["estimator"], row["steps"]): row for row in rows}
    titles = {"seconds": "time of the backward pass, s", "megabytes": "peak of tensors, MB"}
    for key, title in titles.items():
        table = [{"estimator": n} | {f"K = {k}": of[n, k][key] for k in steps} for n in names]
        print_table(title, table)
    out = options.out / "ibaml_fig2"
    write_csv(rows, out / "costs.csv")
    styles = {
        name: {"color": COLOURS[name.partition(",")[0]], "linestyle": "--" if name.endswith("= 2") else "-"}
        for name in names
    }
    save(lines(rows, "estimator", "steps", "inner gradient steps K", titles, styles), out / "ibaml_fig2.png")
    first, last, mid = steps[0], steps[-1], steps[len(steps) // 2]

    def growth(name: str, key: str) -> float:
        return of[name, last][key] / of[name, first][key]

    implicit = [name for name in names if "L = " in name]
    claims = {
        f"time of implicit gradients is flat in K (K = {last} within 1.5 times K = {first})": all(
            growth(name, "seconds") < 1.5 for name in implicit
        ),
        f"memory of implicit gradients is flat in K (K = {last} within 1.1 times K = {first})": all(
            growth(name, "megabytes") < 1.1 for name in implicit
        ),
    }
    for name in ("MAML", "ABML"):
        for key in titles:
            per_step = [
                (of[name, b][key] - of[name, a][key]) / (b - a) for a, b in ((first, mid), (mid, last))
            ]
            claims[f"{key} of {name} grow linearly in K (slopes within a third)"] = (
                0.67 < per_step[1] / per_step[0] < 1.5
            )
    verdict(claims)


if __name__ == "__main__":
    main(tyro.cli(Options))
