"""Likelihood, accuracy and calibration of MAML, ABML and iBaML on miniImageNet: table 1 and figure 3 of ibaml.

    python examples/papers/ibaml_table1.py --data omniglot --shots 1 --lr 2e-3 --inner-lr 0.1
    python examples/papers/ibaml_table1.py --data miniimagenet --side 84 --steps 40000 --batch 2 --samples 5

``--data`` takes any form of docs/data.md; without it the tasks are of the letters that ship with metafunc. The second
command is the paper's schedule; the first is what one core reaches in an hour, on images that cost a twentieth. Each
run has a folder of its own and goes on from there when the command is given again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from matplotlib.figure import Figure
from report import Row, Run, print_table, save, verdict, write_csv
from torch import Tensor

import metafunc as mf
from metafunc import bayes

HYPER, CG = 1e-8, mf.CG(max_steps=5, damping=10.0)
METHODS = {
    "MAML, K = 5": ("maml", 5),
    "ABML, K = 5": ("abml", 5),
    "iBaML, K = 5": ("ibaml", 5),
    "iBaML, K = 10": ("ibaml", 10),
    "iBaML, K = 15": ("ibaml", 15),
}
COLOURS = {"maml": "#7f7f7f", "abml": "#c8553d", "ibaml": "#1b3a5c"}


@dataclass(frozen=True)
class Options(Run):
    """Meta-train every method of the table, and judge what it says of unseen classes."""

    data: Path | None = None  # miniImageNet in any form of docs/data.md; letters that ship if not given.
    side: int = 28  # The images' height and width.
    shots: tuple[int, ...] = (5, 1)  # Five for the table, one for the figure.
    seeds: int = 1
    steps: int = 600  # Meta-steps.
    batch: int = 4  # Tasks in a meta-step.
    queries: int = 5  # Images of each class to be judged by in training; 15 in the test.
    width: int = 32  # Channels of the net.
    lr: float = 1e-3  # Adam's.
    inner_lr: float = 0.01
    variance: float = 1e-4  # Of the prior at the start.
    divergence: float = 5e-5  # Its weight beside the mean loss.
    samples: int = 2  # Of the posterior in training.
    test_samples: int = 10
    test_tasks: int = 300
    device: str = "cpu"


def learner(name: str, net: torch.nn.Module, seed: int, options: Options) -> bayes.BayesianLearner:
    """MAML is a posterior without width or divergence: one sample of it is the mean."""
    method, steps = METHODS[name]
    point, prior = method == "maml", bayes.Prior(net, options.variance).to(options.device)
    prior.log_variance.requires_grad_(not point)
    return bayes.BayesianLearner(
        prior,
        F.cross_entropy,
        torch.optim.Adam([p for p in prior.parameters() if p.requires_grad], lr=options.lr),
        lambda problem: mf.gradient_descent(**problem, lr=options.inner_lr, steps=steps),
        mf.Implicit(CG) if method == "ibaml" else mf.Explicit(),
        kl_weight=1e-12 if point else options.divergence,
        samples=1 if point else options.samples,
        test_samples=1 if point else options.test_samples,
        variance=0.0 if point else None,
        sampling=mf.Loop() if options.device == "cpu" else mf.Vmap(),
        hyperprior=(lambda theta: HYPER * bayes.gamma_hyperprior(theta)) if method == "abml" else None,
        clip=10.0,
        seed=seed,
    )


def run(
    name: str, shots: int, seed: int, images: mf.data.ImageDataset, options: Options
) -> tuple[Tensor, Tensor]:
    """One training from one seed: its answers to test tasks, and what was right."""
    torch.manual_seed(seed)
    channels, side = images.images.shape[-3], images.images.shape[-1]
    shrink = "stride" if channels == 1 else "pool"
    net = mf.nets.conv4(5, channels=channels, width=options.width, side=side, shrink=shrink)
    trained = learner(name, net, seed, options)
    normalize, unseen = images.split("train").statistics(), "test" if "test" in images.splits else "val"
    train, test = (
        mf.data.Episodes(images.split(split), 5, shots, queries, normalize=normalize, device=options.device)
        for split, queries in (("train", options.queries), (unseen, 15))
    )
    train = replace(train, rotations=channels == 1)  # a character turned by a quarter is another one
    sizes = "data", "side", "steps", "batch", "queries", "width"
    made_with = options.settings_of(*sizes, "lr", "inner_lr", "variance", "divergence", "samples")
    folder = options.out / "ibaml_table1" / f"{shots}-shot {name} {seed}"
    mf.training.train(
        trained, train, steps=options.steps, batch=options.batch, folder=folder, seed=seed, settings=made_with
    )
    return bayes.answers(trained, test, options.test_tasks, seed=2)


def chart(rows: list[Row], shots: tuple[int, ...]) -> Figure:
    """The four figures of every method with their intervals, a line of panels for each number of shots."""
    keys = bayes.Calibration._fields
    figure = Figure(figsize=(13, 2.4 * len(shots)), layout="constrained")
    for line, number in zip(figure.subplots(len(shots), len(keys), squeeze=False), shots, strict=True):
        for axis, key in zip(line, keys, strict=True):
            own = [row for row in rows if row["shots"] == number]
            for place, row in enumerate(own):
                colour = COLOURS[METHODS[row["method"]][0]]
                style = {"fmt": "o", "color": colour, "capsize": 3, "markersize": 5}
                axis.errorbar(row[key], place, xerr=row[f"{key}_interval"], **style)
            names = [row["method"] for row in own] if key == keys[0] else [""] * len(own)
            axis.set(yticks=range(len(own)), yticklabels=names, title=f"{key}, 5-way {number}-shot")
            axis.set_ylim(len(own) - 0.5, -0.5)
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(axis="x", linewidth=0.3)
    return figure


def main(options: Options) -> None:
    torch.set_num_threads(1)
    if options.quick:
        small = {"steps": 1, "batch": 1, "width": 4, "queries": 1, "test_tasks": 4, "test_samples": 2}
        options = replace(options, shots=(1,), samples=1, **small)
    images = mf.data.glyphs() if options.data is None else mf.data.read(options.data, size=options.side)
    rows: list[Row] = []
    out = options.out / "ibaml_table1"
    for shots in options.shots:
        judged: dict[str, tuple[Tensor, Tensor]] = {}
        for name in METHODS:
            parts = [run(name, shots, seed, images, options) for seed in range(options.seeds)]
            judged[name] = torch.cat([p[0] for p in parts], 1), torch.cat([p[1] for p in parts])
            figures = bayes.calibration(*judged[name])
            intervals = bayes.calibration_intervals(*judged[name], resamples=20 if options.quick else 200)
            row: Row = {"shots": shots, "method": name}
            row |= {key: value.item() for key, value in figures._asdict().items()}
            rows.append(row | {f"{key}_interval": half.item() for key, half in intervals._asdict().items()})
            write_csv(rows, out / "test.csv")
        bayes.draw_reliability(judged, out / f"reliability_{shots}-shot.png")
    print_table("Test tasks: figures, and half their 95 % intervals", rows)
    save(chart(rows, options.shots), out / "ibaml_table1.png")
    of = {(row["shots"], row["method"]): row for row in rows}
    claims: dict[str, bool] = {}
    for shots in options.shots:
        nll = [of[shots, name]["nll"] for name in METHODS if name.startswith("iBaML")]
        others = [of[shots, name]["ece"] for name in METHODS if not name.startswith("iBaML")]
        claims[f"{shots}-shot: iBaML's nll falls with K"] = all(a > b for a, b in pairwise(nll))
        best = min(of[shots, name]["ece"] for name in METHODS if name.startswith("iBaML"))
        claims[f"{shots}-shot: iBaML has the least expected calibration error"] = best < min(others)
    verdict(claims)


if __name__ == "__main__":
    main(tyro.cli(Options))
