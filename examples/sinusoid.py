"""Regression of sinusoids from a few points: the smallest problem of the field, with every estimator.

    python examples/sinusoid.py
    python examples/sinusoid.py --estimator implicit --prox 1 --inner-steps 16
    python examples/sinusoid.py --estimator binomial --order 2 --shots 5

The tasks are those of BinomMAML, appendix C.1: ``y = A sin(x + b)``, 10 points, and a net with two hidden layers of 40.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from matplotlib.figure import Figure
from options import Training
from torch import nn

import metafunc as mf


@dataclass(frozen=True)
class Options(Training):
    """Meta-train a small net on sinusoids, and draw what it makes of new ones."""

    shots: int = 10  # Points to learn a curve from.
    queries: int = 10  # Points to be judged by.
    steps: int = 5_000  # Meta-steps. The same command with more of them goes on where a run has ended.
    batch: int = 25  # Tasks in a meta-step.
    test_tasks: int = 1000  # Curves of the test at the end.


def main(options: Options) -> None:
    torch.manual_seed(options.seed)
    net = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)).to(
        options.device
    )
    curves = mf.data.Sinusoids(options.shots, options.queries, device=options.device)
    meta = options.meta_optimizer(net, F.mse_loss)
    folder = options.folder or Path(f"runs/sinusoid/{options.estimator}-{options.seed}")
    run = options.train(meta, curves, curves, folder, monitor="loss")
    if run.stopped == "interrupted":
        print(f"stopped after {run.steps} meta-steps; the same command goes on from there")
        return
    score = mf.training.evaluate(meta, curves, options.test_tasks, batch=100, seed=2)["loss"]
    print(
        f"{meta.estimator!r}: squared error {score} on {score.tasks} new curves, best at step {run.best_step}"
    )
    mf.training.draw_curves(run.folder)
    print(f"pictures: {draw(meta, curves, run.folder / 'sinusoids.png')}, {run.folder / 'curves.png'}")


def draw(meta: mf.MetaOptimizer, curves: mf.data.Sinusoids, path: Path) -> Path:
    """Four new curves, the points that were seen, and the net before and after the inner loop."""
    draws = torch.Generator()
    truth = curves.curves(4, draws.manual_seed(3))
    tasks = curves.sample(4, draws.manual_seed(3))  # the same state, so the same curves
    x = torch.linspace(-5, 5, 200, device=curves.device)[:, None]
    y = truth.at(x.expand(4, -1, -1))
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    for i, axes in enumerate(figure.subplots(1, 4, sharey=True)):
        support = tasks["support"][0][i], tasks["support"][1][i]
        with torch.no_grad():
            before, after = meta.model.module(x), meta.adapt(support)(x)
        axes.plot(x.cpu(), y[i].cpu(), color="#c3cdd4", linewidth=4, label="truth")
        axes.plot(x.cpu(), before.cpu(), ":", color="#e4572e", label="before the inner loop")
        axes.plot(x.cpu(), after.cpu(), color="#22313f", label="after it")
        axes.plot(*(v.cpu() for v in support), "o", color="#2a9d8f", label="points seen")
        axes.set(xlabel="x", ylim=(-5.5, 5.5))
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("y")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
    )
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    main(tyro.cli(Options))
