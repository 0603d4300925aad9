"""Regression that knows what it does not know: predictive bands of sinusoids from a few points.

    python examples/bayes_sinusoid.py
    python examples/bayes_sinusoid.py --method ibaml --shots 3

The prior of a net's parameters is meta-learned on ``y = A sin(x + b)`` with a little noise; a task's points lie in the
left half alone, so that the posterior should be sure there and unsure of what lies to the right.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from matplotlib.figure import Figure
from rich.progress import track
from torch import Tensor, nn

import metafunc as mf
from metafunc import bayes


@dataclass(frozen=True)
class Options:
    """Meta-train a prior on sinusoids, and draw what its posteriors predict."""

    method: Literal["abml", "ibaml"] = "abml"
    shots: int = 5
    noise: float = 0.3  # The standard deviation of observations around the curve.
    steps: int = 1200  # Meta-steps.
    batch: int = 16
    lr: float = 2e-3
    inner_steps: int = 5
    inner_lr: float = 0.05  # In units of the noise's variance.
    samples: int = 5
    outer: Literal["predictive", "expected"] = "predictive"  # The outer loss: ibaml's (4), or its bound (5).
    variance: float = 3e-3  # Of the prior at the start.
    divergence: float = 0.02  # The weight of the divergence beside the mean loss; 1 / shots is Bayes' rule.
    test_tasks: int = 500
    seed: int = 0
    quick: bool = False  # A few steps, in seconds.
    out: Path = Path("runs/bayes_sinusoid")


@dataclass(frozen=True)
class Halves:
    """Sinusoids with noise, seen in the left half and judged everywhere."""

    shots: int
    noise: float

    def sample(self, tasks: int, generator: torch.Generator) -> mf.data.Tasks:
        curves = mf.data.Sinusoids(amplitude=(1.0, 5.0)).curves(tasks, generator)
        x = torch.rand(tasks, self.shots + 20, 1, generator=generator)
        x = torch.cat([-5 + 5 * x[:, : self.shots], -5 + 10 * x[:, self.shots :]], 1)
        y = curves.at(x) + self.noise * torch.randn(x.shape, generator=generator)
        cut = self.shots
        return {"support": (x[:, :cut], y[:, :cut]), "query": (x[:, cut:], y[:, cut:])}


def gaussian_nll(std: float):
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (((outputs - targets) / std) ** 2).mean() + math.log(std * math.sqrt(2 * math.pi))

    return loss


def main(options: Options) -> None:
    steps, tests = (5, 20) if options.quick else (options.steps, options.test_tasks)
    torch.manual_seed(options.seed)

    def predictive_nll(outputs: Tensor, targets: Tensor) -> Tensor:
        return bayes.regression_nll(outputs, targets, options.noise).mean()

    net = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))
    prior = bayes.Prior(net, options.variance)
    # Log-variances have a long way to go, and Adam moves every parameter by about its learning rate.
    groups = [
        {"params": prior.module.parameters()},
        {"params": prior.log_variance.parameters(), "lr": 10 * options.lr},
    ]
    optimizer = torch.optim.Adam(groups, lr=options.lr)
    learner = bayes.BayesianLearner(
        prior,
        gaussian_nll(options.noise),
        optimizer,
        lambda problem: mf.gradient_descent(
            **problem, lr=options.inner_lr * options.noise**2, steps=options.inner_steps
        ),
        mf.Explicit() if options.method == "abml" else mf.Implicit(mf.CG(max_steps=10, damping=1.0)),
        kl_weight=options.divergence,
        samples=options.samples,
        outer_loss=predictive_nll if options.outer == "predictive" else None,
        test_samples=100,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        clip=100.0,
        metrics={"nll": predictive_nll},
        seed=options.seed,
    )
    tasks, draws = Halves(options.shots, options.noise), torch.Generator().manual_seed(options.seed)
    for _ in track(range(steps), description=options.method):
        learner.step(tasks.sample(options.batch, draws))

    found = learner.evaluate(tasks.sample(tests, torch.Generator().manual_seed(1)))["nll"]
    interval = 1.96 * found.std() / math.sqrt(tests)
    inside = coverage(learner, tasks, options.noise, tests)
    print(
        f"{options.method}: predictive nll {found.mean():.3f} ± {interval:.3f} nats an observation, {tests} curves"
    )
    print(
        f"observations within two standard deviations: {inside:.1%} (95.4 % if the predictive were Gaussian)"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / f"{options.method}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows(
            [
                ["method", "nll", "interval", "coverage"],
                [options.method, *map(float, (found.mean(), interval, inside))],
            ]
        )
    print(f"wrote {draw(learner, tasks, options)}")


def coverage(learner: bayes.BayesianLearner, tasks: Halves, noise: float, count: int) -> Tensor:
    batch = tasks.sample(count, torch.Generator().manual_seed(1))
    predictive = bayes.regression(learner.predict(batch).movedim(1, 0), noise)
    return ((batch["query"][1] - predictive.mean).abs() <= 2 * predictive.std).float().mean()


def draw(learner: bayes.BayesianLearner, tasks: Halves, options: Options) -> Path:
    """Four new curves, the points that were seen, and the bands of the posteriors."""
    start = torch.Generator().manual_seed(5).get_state()
    draws = torch.Generator()
    draws.set_state(start)
    batch = tasks.sample(4, draws)
    draws.set_state(start)
    truth = mf.data.Sinusoids(amplitude=(1.0, 5.0)).curves(4, draws)
    x = torch.linspace(-5, 5, 200)[:, None].expand(4, 200, 1)
    outputs = learner.predict({"support": batch["support"], "query": (x, torch.zeros_like(x))})
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    for i, axes in enumerate(figure.subplots(1, 4, sharey=True)):
        predictive = bayes.regression(outputs[i], options.noise)
        bayes.draw_bands(
            axes,
            x[i],
            predictive,
            color="#1d7f72",
            label="predictive mean, with bands of the posterior and of the noise on top",
        )
        axes.plot(x[i, :, 0], truth.at(x)[i, :, 0], "--", color="#22313f", linewidth=1, label="truth")
        axes.plot(
            *(v[i, :, 0] for v in batch["support"]), "o", color="#e4572e", markersize=5, label="points seen"
        )
        axes.set(xlabel="x", ylim=(-8, 8))
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("y")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    path = options.out / f"{options.method}.png"
    figure.savefig(path, dpi=120)
    return path


if __name__ == "__main__":
    main(tyro.cli(Options))
