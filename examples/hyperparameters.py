"""Learn the inner loop's own hyperparameters: a learning rate for every tensor, and the weight of the proximal term.

    python examples/hyperparameters.py

Learning rates shape the path of the inner loop, so that their gradient comes from `mf.Explicit`. The proximal weight
shapes the solution, so that its gradient comes from `mf.Implicit`, which does not look at the path (and which refuses a
gradient to the learning rate: it is zero at a solution). Either is a parameter of the module, next to the net's, and
`adapt="net"` says that the inner loop leaves it alone. Both are learnt next to a run in which they stay fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import metafunc as mf


@dataclass(frozen=True)
class Options:
    """Meta-train on sinusoids with fixed and with learnt hyperparameters."""

    lr: float = 0.01  # Where every inner learning rate begins.
    prox: float = 1.0  # Where the proximal weight begins.
    steps: int = 1500  # Meta-steps of each run.
    batch: int = 25  # Tasks in a meta-step.
    shots: int = 10  # Points to learn a curve from.
    seed: int = 0  # Of the net and of every draw.
    output: Path = Path("runs/hyperparameters")  # The folder of the picture.


class Learner(nn.Module):
    """A net with the logarithms of its hyperparameters beside it."""

    def __init__(self, lr: float, prox: float) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))
        names = [name.replace(".", "_") for name, _ in self.net.named_parameters()]
        self.log_lr = nn.ParameterDict({name: torch.tensor(lr).log() for name in names})
        self.log_prox = nn.Parameter(torch.tensor(prox).log())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def rates(theta: dict[str, Tensor]) -> dict[str, Tensor]:
    """A learning rate for every tensor of the net, laid out as the parameters are."""
    slopes = {
        name.removeprefix("log_lr."): value.exp()
        for name, value in theta.items()
        if name.startswith("log_lr")
    }
    return {
        name: slopes[name.removeprefix("net.").replace(".", "_")] for name in theta if name.startswith("net.")
    }


def learner(options: Options, estimator: mf.Estimator, learnt: bool) -> mf.MetaOptimizer:
    """`Explicit` with learning rates, `Implicit` with a proximal weight, learnt or left where they begin."""
    torch.manual_seed(options.seed)
    module, explicit = Learner(options.lr, options.prox), isinstance(estimator, mf.Explicit)
    module.log_lr.requires_grad_(learnt and explicit)
    module.log_prox.requires_grad_(learnt and not explicit)

    def inner(problem: dict[str, Any]) -> mf.Inner:
        if explicit:
            return mf.gradient_descent(**problem, lr=rates if learnt else options.lr, steps=5)
        weight = (lambda theta: theta["log_prox"].exp()) if learnt else options.prox
        return mf.gradient_descent(**problem, lr=options.lr, steps=30, prox=weight)

    hyper = [p for name, p in module.named_parameters() if name.startswith("log_")]
    groups = [{"params": module.net.parameters(), "lr": 1e-3}, {"params": hyper, "lr": 1e-2}]
    return mf.MetaOptimizer(
        module, F.mse_loss, torch.optim.Adam(groups), inner, estimator, adapt="net", clip=10.0
    )


def main(options: Options) -> None:
    curves, implicit = mf.data.Sinusoids(options.shots), mf.Implicit(mf.CG(max_steps=10))
    runs = {
        "learning rates fixed": learner(options, mf.Explicit(), learnt=False),
        "learning rates learnt": learner(options, mf.Explicit(), learnt=True),
        "proximal weight fixed": learner(options, implicit, learnt=False),
        "proximal weight learnt": learner(options, implicit, learnt=True),
    }
    table = Table("run", "squared error", "95 % interval", "in the end", title="1,000 new curves")
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, (name, meta) in zip(("#c3cdd4", "#22313f", "#f4b49f", "#e4572e"), runs.items(), strict=True):
        draws, losses, values = torch.Generator().manual_seed(options.seed), [], []
        module = cast(Learner, meta.model.module)
        for step in track(range(options.steps), description=name):
            meta.step(curves.sample(options.batch, draws))
            if step % 50 == 0 or step == options.steps - 1:
                score = mf.training.evaluate(meta, curves, 200, batch=200)["loss"]
                losses.append((step, score.mean))
                values.append([x.exp().item() for x in (*module.log_lr.values(), module.log_prox)])
        left.plot(*zip(*losses, strict=True), color=colour, label=name)
        rates_now, prox = values[-1][:-1], values[-1][-1]
        if name == "learning rates learnt":
            for tensor, path in zip(module.log_lr, list(zip(*values, strict=True))[:-1], strict=True):
                right.plot([n for n, _ in losses], path, color=colour, alpha=0.6)
                right.annotate(tensor, (losses[-1][0], path[-1]), size=7, color=colour)
        if name == "proximal weight learnt":
            right.plot([n for n, _ in losses], [v[-1] for v in values], color=colour, linewidth=2)
            right.annotate(
                "proximal weight", (losses[-1][0], prox), size=8, color=colour, ha="right", va="bottom"
            )
        end = f"{min(rates_now):.3g} to {max(rates_now):.3g}" if "rates" in name else f"{prox:.3g}"
        score = mf.training.evaluate(meta, curves, 1000, batch=200, seed=2)["loss"]
        table.add_row(name, f"{score.mean:.4f}", f"± {score.interval:.4f}", end)
    Console().print(table)

    left.set(xlabel="meta-steps", ylabel="squared error on new curves", yscale="log")
    left.legend(frameon=False)
    right.set(
        xlabel="meta-steps", ylabel="hyperparameters, learnt", yscale="log", xlim=(0, 1.15 * options.steps)
    )
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    options.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output / "hyperparameters.png", dpi=110)
    print(f"picture: {options.output / 'hyperparameters.png'}")


if __name__ == "__main__":
    main(tyro.cli(Options))
