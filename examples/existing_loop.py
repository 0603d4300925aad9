"""An existing PyTorch training loop, and the four lines that make it meta-learning.

    python examples/existing_loop.py
    python examples/existing_loop.py --forecast

The module, the loss, the optimizer, the scheduler and the loop are as anywhere in PyTorch; `mf.MetaOptimizer` stands
between them. The tasks are real: the life expectancy of a country over the years, of which a few are given. What one
country teaches is meta-learnt from the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from matplotlib.figure import Figure
from torch import Tensor, nn

import metafunc as mf


@dataclass(frozen=True)
class Options:
    """Meta-train a small net on the curves of countries."""

    shots: int = 4  # Years that are given.
    forecast: bool = False  # Give the earliest years and ask for the later ones, in place of random ones.
    epochs: int = 30  # Passes of 100 meta-steps.
    seed: int = 0  # Of the net, of the split of the countries and of every draw.
    output: Path = Path("runs/existing_loop")  # The folder of checkpoint and picture.


def main(options: Options) -> None:
    torch.manual_seed(options.seed)
    countries = {
        split: mf.data.LifeExpectancy(
            split, shots=options.shots, forecast=options.forecast, seed=options.seed
        )
        for split in ("train", "val", "test")
    }
    draws = torch.Generator().manual_seed(options.seed)

    net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=100 * options.epochs)

    # What is new: an inner loop, and the wrapper.
    def inner(problem: dict[str, object]) -> mf.Inner:
        return mf.gradient_descent(**problem, lr=0.05, steps=5)

    meta = mf.MetaOptimizer(net, F.mse_loss, optimizer, inner, mf.Explicit(), scheduler=scheduler, clip=1.0)

    for epoch in range(options.epochs):
        loss = 0.0
        for _ in range(100):
            step = meta.step(countries["train"].sample(16, draws))  # was: backward and step
            loss += step.loss.item() / 100
        score = mf.training.evaluate(meta, countries["val"], 200)["loss"]
        print(f"epoch {epoch + 1:2}: training loss {loss:.4f}, validation loss {score}", flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    # Was: the state of the net, the optimizer and the scheduler.
    torch.save(meta.state_dict(), options.output / "last.pt")

    adapted = mf.training.evaluate(meta, countries["test"], 400)["loss"]
    print(f"test countries: squared error {adapted} in units of the variance over training countries")
    print(f"picture: {draw(meta, countries['test'], options.output / 'countries.png')}")


def draw(meta: mf.MetaOptimizer, countries: mf.data.LifeExpectancy, path: Path) -> Path:
    """Four test countries: the years that were given, those that were not, and the net after the inner loop."""
    draws = torch.Generator()
    names = countries.countries(4, draws.manual_seed(8))
    tasks = countries.sample(4, draws.manual_seed(8))  # the same state, so the same countries
    x, figure = torch.linspace(-1, 1, 100)[:, None], Figure(figsize=(12, 3.2), layout="constrained")

    def scaled(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return 1979.5 + 27.5 * x, countries.mean + countries.std * y

    for i, (axes, name) in enumerate(zip(figure.subplots(1, 4, sharey=True), names, strict=True)):
        given, asked = ((tasks[part][0][i], tasks[part][1][i]) for part in ("support", "query"))
        with torch.no_grad():
            axes.plot(*scaled(x, meta.model.module(x)), ":", color="#e4572e", label="before the inner loop")
            axes.plot(*scaled(x, meta.adapt(given)(x)), color="#22313f", label="after it")
        axes.plot(*scaled(*given), "o", color="#2a9d8f", label="years given")
        axes.plot(*scaled(*asked), "o", color="#2a9d8f", fillstyle="none", label="years asked for")
        axes.set(title=name, xlabel="year")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("life expectancy, years")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
    )
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    main(tyro.cli(Options))
