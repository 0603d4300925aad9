"""A bilevel problem that is no few-shot learning: find the wrong labels in a training set.

    python examples/data_reweighting.py
    python examples/data_reweighting.py --wrong 0.6 --letters 20

Some of the labels that a classifier is trained on are wrong. Every training image gets a weight; the classifier with
the smallest weighted loss is the inner solution, and its loss on a few images whose labels are known to be right is the
outer loss. Its gradient in the weights, through the solution, moves them: the inner problem is convex, Newton's method
solves it to the end, and `mf.Implicit` needs no path. Reweighting by a validation loss is Ren et al.'s idea (2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import metafunc as mf

Params = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Options:
    """Weigh the images of a training set with wrong labels."""

    letters: int = 10  # Classes.
    wrong: float = 0.4  # The share of training labels that are replaced by another one.
    clean: int = 3  # Images of each class whose labels are known to be right.
    penalty: float = 0.01  # The weight of the classifier's squared norm.
    steps: int = 100  # Outer steps.
    lr: float = 0.3  # Adam's learning rate for the logarithms of the weights.
    seed: int = 0  # Of the letters and of the wrong labels.
    output: Path = Path("runs/data_reweighting")  # The folder of the picture.


def main(options: Options) -> None:
    draws = torch.Generator().manual_seed(options.seed)
    letters = mf.data.glyphs().split("train")
    shots = 20 - options.clean - 5
    task = mf.data.Episodes(letters, options.letters, shots, 20 - shots, dtype=torch.float64).sample(1, draws)
    images, truth = task["support"][0][0].flatten(1), task["support"][1][0]
    others, names = task["query"][0][0].flatten(1), task["query"][1][0]
    known = torch.arange(len(names)) % (20 - shots) < options.clean  # the first few of each class
    clean, test = (others[known], names[known]), (others[~known], names[~known])

    spoilt = torch.rand(len(truth), generator=draws) < options.wrong
    shift = torch.randint(1, options.letters, (len(truth),), generator=draws)
    training = images, torch.where(spoilt, (truth + shift) % options.letters, truth)

    def logits(phi: Params, x: Tensor) -> Tensor:
        return x @ phi["weight"] + phi["bias"]

    def objective(phi: Params, theta: Tensor, data: Batch) -> Tensor:
        """The loss with a weight for each image; their mean is one, whatever theta is."""
        weights = torch.softmax(theta, 0) * len(theta)
        losses = F.cross_entropy(logits(phi, data[0]), data[1], reduction="none")
        penalty = sum(p.square().sum() for p in phi.values())
        return (weights * losses).mean() + options.penalty * penalty

    def empty(theta: Tensor) -> Params:
        zeros = images.new_zeros(images.shape[1] + 1, options.letters)
        return {"weight": zeros[1:], "bias": zeros[0]}

    inner = mf.newton_cg(
        objective=objective, init=empty, steps=10, solver=mf.CG(max_steps=30), tolerance=1e-6
    )
    adapt = mf.Implicit(mf.CG(max_steps=50))(inner)

    def outer(phi: Params, clean: Batch) -> Tensor:
        return F.cross_entropy(logits(phi, clean[0]), clean[1])

    def right(phi: Params, batch: Batch) -> float:
        return (logits(phi, batch[0]).argmax(-1) == batch[1]).double().mean().item()

    theta = images.new_zeros(len(truth))
    adam, meta_grad, history = torch.optim.Adam([theta], lr=options.lr), mf.meta_grad(outer, adapt), []
    before = right(adapt(theta, training), test)
    for _ in track(range(options.steps), description="weighing"):
        result = mf.check(meta_grad(theta, training, clean))
        theta.grad = result.grad
        adam.step()
        weights = torch.softmax(theta, 0) * len(theta)
        history.append(
            (weights[~spoilt].mean().item(), weights[spoilt].mean().item(), right(result.phi, test))
        )
    phi = adapt(theta, training)
    # Without theta: trained on what is known to be right alone, and on right labels only.
    even = torch.zeros_like(theta)
    alone = adapt(even[: len(clean[1])], clean)
    oracle = adapt(even, (images, truth))

    table = Table(
        "trained on", "right on new images", title=f"{spoilt.sum()} of {len(truth)} labels are wrong"
    )
    table.add_row("all images, equally", f"{before:.1%}")
    table.add_row("all images, weighed", f"{right(phi, test):.1%}")
    table.add_row(f"the {len(clean[1])} images with known labels", f"{right(alone, test):.1%}")
    table.add_row("all images with right labels (out of reach)", f"{right(oracle, test):.1%}")
    Console().print(table)
    pairs = weights[~spoilt][:, None] > weights[spoilt]
    print(f"a rightly labelled image has the larger weight in {pairs.double().mean():.1%} of all pairs")
    print(f"picture: {draw(weights, spoilt, history, options.output / 'data_reweighting.png')}")


def draw(weights: Tensor, spoilt: Tensor, history: list[tuple[float, float, float]], path: Path) -> Path:
    """The weights on the way, and in the end."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, last = figure.subplots(1, 3)
    good, bad, right = zip(*history, strict=True)
    left.plot(good, color="#2a9d8f", label="labels right")
    left.plot(bad, color="#e4572e", label="labels wrong")
    left.set(xlabel="outer steps", ylabel="mean weight", ylim=0)
    left.legend(frameon=False)
    bins = torch.linspace(0, weights.max().item(), 40).tolist()
    middle.hist(weights[~spoilt].tolist(), bins, color="#2a9d8f", alpha=0.7)
    middle.hist(weights[spoilt].tolist(), bins, color="#e4572e", alpha=0.7)
    middle.set(xlabel="weight in the end", ylabel="training images", yscale="log")
    last.plot(right, color="#22313f")
    last.set(xlabel="outer steps", ylabel="right on new images")
    for axes in (left, middle, last):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    main(tyro.cli(Options))
