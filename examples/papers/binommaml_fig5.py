"""Meta-training on miniImageNet by estimator: figure 5 and tables 1 and 2 of binommaml.

    python examples/papers/binommaml_fig5.py --data miniimagenet
    python examples/papers/binommaml_fig5.py --data miniimagenet --side 84 --steps 20000 --queries 15 --shots 5

All estimators start from the same net and see the same tasks, so that a curve that leaves MAML's does so because of its
meta-gradients alone. ``--data`` takes any form of docs/data.md; without it the tasks are of the letters that ship with
metafunc. The paper's are images of 84x84 and 20,000 meta-steps; the defaults here are what one core reaches in an hour.
Each run has a folder of its own and goes on from there when the command is given again.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from matplotlib.figure import Figure
from report import Row, Run, print_table, save, verdict, write_csv
from torch import Tensor

import metafunc as mf

K, LR = 5, 0.01
METHODS: dict[str, tuple[mf.Estimator, str]] = {
    "MAML": (mf.Explicit(), "#000000"),
    "FOMAML": (mf.FirstOrder(), "#7f7f7f"),
    "Reptile": (mf.Reptile(), "#cc79a7"),
    "iMAML, L = 2": (mf.Implicit(mf.CG(max_steps=2)), "#009e73"),
    "TruncMAML, L = 2": (mf.Truncated(2), "#d55e00"),
    "BinomMAML, L = 1": (mf.Binomial(1), "#56b4e9"),
    "BinomMAML, L = 2": (mf.Binomial(2), "#0072b2"),
    "Hybrid, L = 1, C = 4": (mf.Binomial(1, window=4), "#e69f00"),
}


@dataclass(frozen=True)
class Options(Run):
    """Meta-train with every estimator, from several seeds, and test on unseen classes."""

    data: Path | None = None  # miniImageNet in any form of docs/data.md; letters that ship if not given.
    side: int = 42  # The images' height and width.
    shots: int = 1
    methods: tuple[str, ...] = tuple(METHODS)
    seeds: int = 3
    steps: int = 200  # Meta-steps.
    batch: int = 4  # Tasks in a meta-step.
    queries: int = 5  # Images of each class to be judged by in training; 15 in the test.
    width: int = 32  # Channels of the net.
    lr: float = 1e-3  # Adam's.
    test_tasks: int = 200
    device: str = "cpu"


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(-1) == targets).float().mean()


def run(method: str, seed: int, images: mf.data.ImageDataset, options: Options) -> tuple[Row, Tensor]:
    """One training from one seed: what came of it, and how far the meta-parameters moved."""
    torch.manual_seed(seed)
    channels, side = images.images.shape[-3], images.images.shape[-1]
    net = mf.nets.conv4(5, channels=channels, width=options.width, side=side).to(options.device)
    start = torch.nn.utils.parameters_to_vector(net.parameters()).detach().clone()
    prox = 0.5 if method.startswith("iMAML") else 0.0
    meta = mf.MetaOptimizer(
        net,
        F.cross_entropy,
        torch.optim.Adam(net.parameters(), lr=options.lr),
        lambda problem: mf.gradient_descent(**problem, lr=LR, steps=K, prox=prox),
        METHODS[method][0],
        tasks=mf.Loop() if options.device == "cpu" else mf.Vmap(),
        metrics={"accuracy": accuracy},
    )
    normalize = images.split("train").statistics()
    train, test = (
        mf.data.Episodes(
            images.split(name), 5, options.shots, queries, normalize=normalize, device=options.device
        )
        for name, queries in (("train", options.queries), ("test" if "test" in images.splits else "val", 15))
    )
    made_with = options.settings_of("data", "side", "steps", "batch", "queries", "width", "lr")
    folder = options.out / "binommaml_fig5" / f"{options.shots}-shot {method} {seed}"
    done = mf.training.train(
        meta, train, steps=options.steps, batch=options.batch, folder=folder, seed=seed, settings=made_with
    )
    score = mf.training.evaluate(meta, test, options.test_tasks, batch=20, seed=2)["accuracy"]
    row = {"method": method, "seed": seed, "steps": done.steps, "seconds": done.seconds}
    row |= {"accuracy": 100 * score.mean, "interval": 100 * score.interval, "folder": folder}
    return row, torch.nn.utils.parameters_to_vector(net.parameters()).detach() - start


def curve(folder: Path) -> dict[str, np.ndarray]:
    """The columns of a run's training.csv."""
    with (folder / "training.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in ("step", "loss", "accuracy")}


def against_maml(rows: list[Row], moved: dict[tuple[str, int], Tensor]) -> None:
    """How far each run went from MAML's with the same seed, as columns of its row.

    That of the loss is the root of the mean square over the training curve; that of the meta-parameters is at the end,
    in units of how far MAML moved.
    """
    for row in rows:
        maml = next(r for r in rows if (r["method"], r["seed"]) == ("MAML", row["seed"]))
        gap = curve(row["folder"])["loss"] - curve(maml["folder"])["loss"]
        row["loss apart"] = float(np.sqrt(np.mean(gap**2)))
        own, other = moved[row["method"], row["seed"]], moved["MAML", row["seed"]]
        row["parameters apart"] = float((own - other).norm() / other.norm())


def summary(rows: list[Row]) -> list[Row]:
    """Means over seeds; of the accuracy with the standard deviation between them."""
    found: list[Row] = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        columns = {
            name: [row[name] for row in own] for name in ("accuracy", "loss apart", "parameters apart")
        }
        means: Row = {name: float(np.mean(values)) for name, values in columns.items()}
        spread = float(np.std(columns["accuracy"], ddof=1)) if len(own) > 1 else 0.0
        found.append({"method": method, **means, "deviation": spread, "seeds": len(own)})
    return found


def chart(rows: list[Row]) -> Figure:
    """Accuracy and loss in the course of meta-training, and the distance of the loss from MAML's; means over seeds."""
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    panels = figure.subplots(1, 3)
    titles = ("training accuracy", "training loss", "loss minus MAML's, same tasks")
    for axis, title in zip(panels, titles, strict=True):
        axis.set(xlabel="meta-steps", title=title)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(linewidth=0.3)

    def smooth(values: np.ndarray) -> np.ndarray:
        width = min(3, len(values))
        return np.convolve(values, np.ones(width) / width, mode="valid")

    def mean_of(method: str, key: str) -> np.ndarray:
        return np.mean([curve(r["folder"])[key] for r in rows if r["method"] == method], axis=0)

    for method in dict.fromkeys(row["method"] for row in rows):
        colour = METHODS[method][1]
        steps = smooth(curve(next(r["folder"] for r in rows if r["method"] == method))["step"])
        gap = mean_of(method, "loss") - mean_of("MAML", "loss")
        lines = mean_of(method, "accuracy"), mean_of(method, "loss"), gap
        for axis, line in zip(panels, lines, strict=True):
            axis.plot(steps, smooth(line), color=colour, label=method, linewidth=1.4)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def main(options: Options) -> None:
    torch.set_num_threads(1)
    if options.quick:
        options = replace(options, seeds=1, steps=10, batch=1, width=4, queries=1, test_tasks=10)
    images = mf.data.glyphs() if options.data is None else mf.data.read(options.data, size=options.side)
    out = options.out / "binommaml_fig5"
    rows: list[Row] = []
    moved: dict[tuple[str, int], Tensor] = {}
    for seed in range(options.seeds):
        for method in options.methods:
            row, moved[method, seed] = run(method, seed, images, options)
            rows.append(row)
    against_maml(rows, moved)
    write_csv(rows, out / "runs.csv")
    means = summary(rows)
    print_table(f"5-way {options.shots}-shot: means over seeds", means)
    write_csv(means, out / "means.csv")
    save(chart(rows), out / "binommaml_fig5.png")
    of = {row["method"]: row for row in means}
    trunc, binom, hybrid = (of[n] for n in ("TruncMAML, L = 2", "BinomMAML, L = 2", "Hybrid, L = 1, C = 4"))
    verdict(
        {
            "BinomMAML's loss is nearer to MAML's than TruncMAML's": binom["loss apart"]
            < trunc["loss apart"],
            "BinomMAML's accuracy is above TruncMAML's": binom["accuracy"] > trunc["accuracy"],
            "BinomMAML's with L = 1 is above the hybrid's": of["BinomMAML, L = 1"]["accuracy"]
            > hybrid["accuracy"],
        }
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
