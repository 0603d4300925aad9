"""Omniglot accuracies of MAML, first-order MAML, Reptile, and iMAML by gradient descent and by Hessian-free: Table 2.

    python examples/papers/imaml_table2.py --data omniglot28.npz
    python examples/papers/imaml_table2.py --data omniglot --settings 20x1 --width 64 --batch 32 --steps 60000

``--data`` takes any form of docs/data.md; without it the tasks are of the letters that ship with metafunc. The paper
trains for about 60,000 meta-steps of 32 tasks; the defaults here are what two cores reach in an hour or two. Each run
has a folder of its own and goes on from there when the command is given again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from matplotlib.figure import Figure
from report import Row, Run, print_table, save, verdict, write_csv
from torch import Tensor

import metafunc as mf

LR, PROX = 0.1, 0.5
# The net has kinks, so that its Hessian is far from definite: without damping the linear solves end early.
IMPLICIT = mf.Implicit(mf.CG(max_steps=5, damping=10.0))
METHODS: dict[str, mf.Estimator] = {
    "MAML": mf.Explicit(),
    "first-order MAML": mf.FirstOrder(),
    "Reptile": mf.Reptile(),
    "iMAML, GD": IMPLICIT,
    "iMAML, Hessian-free": IMPLICIT,
}
PAPER = {
    "5x1": (98.7, 98.3, 97.68, 99.16, 99.50),
    "5x5": (99.9, 99.2, 99.48, 99.67, 99.74),
    "20x1": (95.8, 89.4, 89.43, 94.46, 96.18),
    "20x5": (98.9, 97.9, 97.12, 98.69, 99.14),
}


@dataclass(frozen=True)
class Options(Run):
    """Meta-train every method of the table from several seeds, and test it on unseen characters."""

    data: Path | None = None  # Omniglot in any form of docs/data.md; letters that ship if not given.
    settings: tuple[str, ...] = ("5x1",)  # Ways and shots: 5x1, 5x5, 20x1, 20x5.
    methods: tuple[str, ...] = tuple(METHODS)
    seeds: int = 3
    steps: int = 1000  # Meta-steps.
    batch: int = 8  # Tasks in a meta-step.
    queries: int = 5  # Drawings of each character to be judged by in training; 15 in the test.
    width: int = 32  # Channels of the net.
    lr: float = 2e-3  # Adam's, falling to zero along a cosine.
    test_tasks: int = 600
    device: str = "cpu"


def inner(method: str, ways: int, testing: bool = False) -> Callable[[dict[str, Any]], mf.Inner]:
    """How a method learns a task: the paper's F.2, and Reptile's 5 steps in training and 50 in the test."""

    def of(problem: dict[str, Any]) -> mf.Inner:
        if method == "iMAML, Hessian-free":
            return mf.newton_cg(**problem, steps=3, solver=mf.CG(max_steps=5), prox=PROX)
        if method == "iMAML, GD":
            return mf.gradient_descent(**problem, lr=LR, steps=16 if ways == 5 else 25, prox=PROX)
        return mf.gradient_descent(**problem, lr=LR, steps=50 if testing and method == "Reptile" else 5)

    return of


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(-1) == targets).float().mean()


def run(method: str, setting: str, seed: int, images: mf.data.ImageDataset, options: Options) -> Row:
    """One training from one seed, and its test."""
    ways, shots = map(int, setting.split("x"))
    torch.manual_seed(seed)
    net = mf.nets.conv4(ways, channels=1, width=options.width, side=28, shrink="stride").to(options.device)
    adam = torch.optim.Adam(net.parameters(), lr=options.lr)
    meta = mf.MetaOptimizer(
        net,
        F.cross_entropy,
        adam,
        inner(method, ways),
        METHODS[method],
        test_inner=inner(method, ways, testing=True),
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(adam, options.steps),
        clip=10.0,
        metrics={"accuracy": accuracy},
    )
    training = mf.data.Episodes(images.split("train"), ways, shots, options.queries, rotations=True)
    if method == "Reptile":  # It has no query set: it learns a task from all the drawings.
        training = replace(training, shots=shots + options.queries, queries=1)
    made_with = options.settings_of("data", "steps", "batch", "queries", "width", "lr")
    folder = options.out / "imaml_table2" / setting / f"{method.replace(', ', ' ')} {seed}"
    done = mf.training.train(
        meta, training, steps=options.steps, batch=options.batch, folder=folder, seed=seed, settings=made_with
    )
    test = mf.data.Episodes(images.split("test"), ways, shots, 15)
    score = mf.training.evaluate(meta, test, options.test_tasks, batch=20, seed=2)["accuracy"]
    row = {"setting": setting, "method": method, "seed": seed, "steps": done.steps, "seconds": done.seconds}
    return row | {"accuracy": 100 * score.mean, "interval": 100 * score.interval}


def summary(rows: list[Row]) -> list[Row]:
    """Means over seeds, with the standard deviation between them where there are several."""
    found: list[Row] = []
    for setting, method in dict.fromkeys((row["setting"], row["method"]) for row in rows):
        own = [r for r in rows if (r["setting"], r["method"]) == (setting, method)]
        values = [r["accuracy"] for r in own]
        paper = PAPER[setting][list(METHODS).index(method)]
        found.append(
            {"setting": setting, "method": method, "accuracy": float(np.mean(values))}
            | {"deviation": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, "seeds": len(values)}
            | {"minutes": float(np.mean([r["seconds"] for r in own])) / 60, "paper": paper}
        )
    return found


def chart(means: list[Row], rows: list[Row]) -> Figure:
    """Accuracies by method, a dot for each seed, the paper's beside them."""
    settings = list(dict.fromkeys(row["setting"] for row in means))
    figure = Figure(figsize=(1.5 + 4 * len(settings), 3.6), layout="constrained")
    panels = figure.subplots(1, len(settings), sharey=True, squeeze=False)[0]
    for axis, setting in zip(panels, settings, strict=True):
        own = [row for row in means if row["setting"] == setting]
        for place, row in enumerate(own):
            dots = [r["accuracy"] for r in rows if (r["setting"], r["method"]) == (setting, row["method"])]
            axis.plot(dots, [place] * len(dots), "o", color="#0072b2", markersize=5, alpha=0.7)
            axis.plot(row["paper"], place, "|", color="#7f7f7f", markersize=16, markeredgewidth=2)
        axis.set(yticks=range(len(own)), yticklabels=[row["method"] for row in own])
        axis.set(xlabel="test accuracy, %", title=f"{setting.replace('x', '-way ')}-shot")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", linewidth=0.3)
    panels[0].invert_yaxis()
    panels[0].plot([], [], "o", color="#0072b2", label="here, one dot a seed")
    panels[0].plot([], [], "|", color="#7f7f7f", markersize=12, label="paper, full schedule")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def main(options: Options) -> None:
    torch.set_num_threads(1)
    if options.quick:
        options = replace(options, seeds=1, steps=2, batch=2, width=8, test_tasks=20)
    images = mf.data.glyphs() if options.data is None else mf.data.read(options.data, size=28)
    images, out = images.to(options.device), options.out / "imaml_table2"
    rows: list[Row] = []
    for setting in options.settings:
        for seed in range(options.seeds):
            for method in options.methods:
                rows.append(run(method, setting, seed, images, options))
                write_csv(rows, out / "runs.csv")
    means = summary(rows)
    print_table("Test accuracies, %, as means over seeds", means)
    write_csv(means, out / "means.csv")
    save(chart(means, rows), out / "imaml_table2.png")
    of = {(row["setting"], row["method"]): row["accuracy"] for row in means}
    for setting in options.settings:
        if all((setting, method) in of for method in METHODS):
            gd, free = of[setting, "iMAML, GD"], of[setting, "iMAML, Hessian-free"]
            rest = max(of[setting, "first-order MAML"], of[setting, "Reptile"])
            verdict(
                {
                    f"{setting}: iMAML, GD is within 2 points of MAML": abs(gd - of[setting, "MAML"]) < 2,
                    f"{setting}: iMAML, GD is above first-order MAML and Reptile": gd > rest,
                    f"{setting}: iMAML, Hessian-free is above iMAML, GD": free > gd,
                }
            )


if __name__ == "__main__":
    main(tyro.cli(Options))
