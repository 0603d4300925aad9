"""Meta-train a small conv net for two minutes, and see what every estimator makes of it.

A task is to tell five letters apart after one look at each, letters of scripts that training never met. On a task the
net takes a few steps of gradient descent from the meta-parameters `theta`, which are trained to make these suffice.
Any estimator may supply the meta-gradient: `python examples/demo.py --estimator binomial --order 2`.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Literal

import torch
import torch.nn.functional as F
import tyro
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.progress import BarColumn, Progress, TimeRemainingColumn
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

import metafunc as mf
from metafunc.compare import Comparison, compare

os.environ.setdefault(
    "KINETO_LOG_LEVEL", "6"
)  # or torch's profiler, which measures memory, chats on the terminal
Name = Literal["explicit", "first-order", "truncated", "binomial", "implicit", "finite-difference", "reptile"]


@dataclass(frozen=True)
class Options:
    """Meta-train a small conv net on letters of many scripts, and compare all estimators on it."""

    estimator: Name = "explicit"  # What makes the meta-gradients.
    order: int = 2  # Of binomial: the most factors in a chain. As many as --inner-steps is exact.
    depth: int = 1  # Of truncated: how many of the last inner steps are differentiated.
    cg_steps: int = 5  # Of implicit: the steps of its linear solver.
    prox: float = 0.5  # Of implicit and finite-difference: the weight of the pull to theta they need.
    ways: int = 5  # Letters in a task.
    shots: int = 1  # Drawings of each letter to learn it from.
    inner_steps: int = 5  # Steps of gradient descent on these.
    inner_lr: float = 0.1  # The learning rate of these steps.
    width: int = 16  # Channels of the net.
    tasks: int = 8  # Tasks in a meta-batch.
    lr: float = 0.01  # Adam's learning rate for theta. It falls to zero in the course of training.
    seconds: float = 120.0  # How long to train.
    steps: int | None = None  # Meta-steps, in place of --seconds; on a CPU --seed then fixes all.
    eval_tasks: int = 400  # Test tasks, before training and after.
    seed: int = 0  # Of the net and of every draw.
    device: str = "cpu"  # Such as cuda.
    output: Path = Path("runs/demo")  # The folder of the picture.


def main(options: Options) -> None:
    stop = on_ctrl_c()
    torch.manual_seed(options.seed)

    # A net, a loss and tasks, as in any PyTorch program.
    net = conv_net(options.width, options.ways).to(options.device)
    theta = {name: p.detach().clone() for name, p in net.named_parameters()}

    def loss(phi: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(net, phi, (batch[0],)), batch[1])

    def accuracy(phi: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        return (functional_call(net, phi, (batch[0],)).argmax(-1) == batch[1]).float().mean()

    glyphs, few = mf.data.glyphs().to(options.device), (options.ways, options.shots)
    train_tasks = mf.data.Episodes(glyphs.split("train"), *few, queries=5, rotations=True)
    val_tasks, test_tasks = (mf.data.Episodes(glyphs.split(s), *few, queries=5) for s in ("val", "test"))

    # An inner problem, and an estimator around it: now `adapt(theta, support) -> phi` is a function like any other.
    inner = mf.gradient_descent(loss, lr=options.inner_lr, steps=options.inner_steps)
    proximal = mf.gradient_descent(loss, lr=options.inner_lr, steps=options.inner_steps, prox=options.prox)
    implicit = mf.Implicit(mf.CG(max_steps=options.cg_steps))
    adapt = {
        "explicit": lambda: mf.Explicit()(inner),
        "first-order": lambda: mf.FirstOrder()(inner),
        "truncated": lambda: mf.Truncated(options.depth)(inner),
        "binomial": lambda: mf.Binomial(options.order)(inner),
        "implicit": lambda: implicit(proximal),
        "finite-difference": lambda: mf.FiniteDifference()(proximal),
        "reptile": lambda: mf.Reptile()(inner),
    }[options.estimator]()

    def meta_loss(theta: dict[str, Tensor], support: Any, query: Any) -> tuple[Tensor, Tensor]:
        phi = adapt(theta, support)
        return loss(phi, query), accuracy(phi, query)

    evaluate = vmap(meta_loss, in_dims=(None, 0, 0))
    meta_step = vmap(grad_and_value(meta_loss, has_aux=True), in_dims=(None, 0, 0))

    def score(tasks: mf.data.Episodes, count: int) -> tuple[float, float]:
        """Mean and 95 % interval of the query accuracy over tasks, the same ones at every call."""
        draws = torch.Generator().manual_seed(options.seed + 1)
        sizes = [min(20, count - start) for start in range(0, count, 20)]  # a few at a time, for memory
        found = torch.cat([evaluate(theta, *tasks.sample(size, draws).values())[1] for size in sizes])
        return found.mean().item(), 1.96 * found.std().item() / count**0.5

    print(f"{adapt!r}; queries right on {options.eval_tasks} tasks from unseen scripts, with 95 % intervals:")
    before = score(test_tasks, options.eval_tasks)
    print("before meta-training {:.1%} ± {:.1%}".format(*before), flush=True)

    # Meta-training: Adam on theta.
    trained: list[float] = []  # the query accuracy of each step
    validated: list[tuple[int, float]] = []
    adam, draws = torch.optim.Adam(theta.values()), torch.Generator().manual_seed(options.seed)
    text = "loss {task.fields[loss]:.3f}  accuracy {task.fields[right]:.1%}  {task.fields[rate]:.1f} steps/s"
    start = time.monotonic()
    with Progress("meta-training", BarColumn(None), text, TimeRemainingColumn(), expand=True) as progress:
        bar = progress.add_task("", total=1.0, loss=0.0, right=0.0, rate=0.0)
        while not stop.is_set():
            n, elapsed = len(trained), time.monotonic() - start
            done = elapsed / options.seconds if options.steps is None else n / max(1, options.steps)
            progress.update(bar, completed=min(1.0, done))
            if 10 * done >= len(validated):
                validated.append((n, score(val_tasks, 40)[0]))
            if done >= 1 or n == options.steps:
                break
            batch = train_tasks.sample(options.tasks, draws)
            gradients, (losses, accuracies) = meta_step(theta, batch["support"], batch["query"])
            for name, parameter in theta.items():
                parameter.grad = gradients[name].mean(0)
            adam.param_groups[0]["lr"] = options.lr * (1 - done)
            adam.step()
            trained.append(accuracies.mean().item())
            right, rate = smooth(trained[-20:], 20)[-1], (n + 1) / (time.monotonic() - start)
            progress.update(bar, loss=losses.mean().item(), right=right, rate=rate)
    if stop.is_set():
        print(f"Ctrl-C: ending after {len(trained)} steps; once more quits at once", flush=True)
    after = score(test_tasks, options.eval_tasks)
    print("after meta-training  {:.1%} ± {:.1%}".format(*after), flush=True)

    # All estimators on this very model.
    batch = test_tasks.sample(options.tasks, torch.Generator().manual_seed(options.seed + 2))
    lengths = sorted({1, 2, max(1, options.inner_steps - 1)})
    candidates = [mf.Explicit(), mf.Explicit(checkpoint=True)]
    candidates += [mf.Binomial(n) for n in lengths] + [mf.Truncated(n) for n in lengths]
    candidates += [mf.FirstOrder(), mf.Reptile(), implicit(proximal), mf.FiniteDifference()(proximal)]
    compared = compare(loss, inner, theta, *batch.values(), estimators=candidates, tasks=mf.Vmap(), repeats=3)
    print(f"\nThe meta-gradient of {options.tasks} test tasks by every estimator\n{compared}\n", flush=True)

    support, query = ((x[0], y[0]) for x, y in batch.values())
    answers = functional_call(net, adapt(theta, support), (query[0],)).argmax(-1)
    figure = Figure(figsize=(16, 7.2))
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.3))
    above, below = right.subfigures(2, 1)
    draw_episode(left, support, query, answers)
    draw_training(above, trained, validated, before, after, chance=1 / options.ways)
    draw_comparison(below, compared)
    options.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output / "demo.png", dpi=120)
    print(f"picture: {options.output / 'demo.png'}")


def on_ctrl_c() -> Event:
    """An event that the first Ctrl-C sets; the second ends the program as usual."""
    stop = Event()

    def first(*_: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    signal.signal(signal.SIGINT, first)
    return stop


def conv_net(width: int, ways: int) -> nn.Module:
    """Four blocks, after which an image of 28 by 28 is a single point."""
    layers: list[nn.Module] = []
    for channels in (1, width, width, width):
        norm = nn.BatchNorm2d(width, track_running_stats=False)  # by the statistics of the batch at hand
        layers += [nn.Conv2d(channels, width, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, ways))


def smooth(values: list[float], reach: int) -> list[float]:
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


INK, PALE, GOOD, BAD, TEST = "#22313f", "#c3cdd4", "#2a9d8f", "#e4572e", "#3a6ea5"


def draw_episode(figure: Any, support: Any, query: Any, answers: Tensor) -> None:
    """A row for each letter: the drawing it is learnt from, and drawings that were named right or wrong."""
    axes, letters, shown = figure.add_axes((0.05, 0.01, 0.93, 0.85)), min(8, int(query[1].max()) + 1), 5

    def tile(image: Tensor, x: float, y: float, size: float, colour: str) -> None:
        axes.imshow(1 - image[0].cpu().numpy(), cmap="gray", vmin=-0.2, extent=(x, x + size, y + size, y))
        axes.add_patch(Rectangle((x, y), size, size, fill=False, edgecolor=colour, linewidth=2.5 * size**0.5))

    for letter in range(letters):
        y, mine = 1.15 * letter, query[1] == letter
        tile(support[0][support[1] == letter][0], 0, y, 1, INK)
        for i, (image, answer) in enumerate(zip(query[0][mine][:shown], answers[mine], strict=False)):
            x = 1.5 + 1.15 * i
            tile(image, x, y, 1, GOOD if answer == letter else BAD)
            if answer != letter:
                tile(support[0][support[1] == answer][0], x + 0.64, y + 0.64, 0.36, BAD)
    axes.set(xlim=(-0.05, 1.4 + 1.15 * shown), ylim=(1.15 * letters, -0.4), anchor="NW")
    axes.set_axis_off()
    right = (answers == query[1]).float().mean().item()
    figure.suptitle(f"A task from unseen scripts: {right:.0%} right", x=0.05, ha="left", size=15, color=INK)
    text = "Learnt from the first column. Green: named right; red: taken for the letter in the corner"
    figure.text(0.05, 0.885, text, color=INK)


def draw_training(
    figure: Any,
    trained: list[float],
    validated: list[tuple[int, float]],
    before: Any,
    after: Any,
    chance: float,
) -> None:
    """Query accuracy on the way, and on test tasks at both ends."""
    axes, last = figure.add_axes((0.09, 0.17, 0.88, 0.67)), max(1, len(trained))
    steps = range(1, len(trained) + 1)
    axes.plot(steps, trained, color=PALE, linewidth=0.8)
    axes.plot(steps, smooth(trained, last // 40), color=INK, label="training scripts, smoothed")
    axes.plot(
        [n for n, _ in validated], [x for _, x in validated], "o", color=GOOD, label="validation scripts"
    )
    for x, (mean, interval), side in ((0, before, "left"), (last, after, "right")):
        axes.errorbar(x, mean, interval, fmt="D", color=TEST, capsize=4, label="test scripts" if x else None)
        place = {"xytext": (10 if side == "left" else -10, -20), "textcoords": "offset points", "ha": side}
        axes.annotate(f"{mean:.1%}", (x, mean), **place, color=TEST, size=12, weight="bold")
    axes.axhline(chance, color=PALE, linestyle="--")
    axes.text(last, chance + 0.015, "chance", ha="right", color=INK)
    axes.set(xlim=(-0.02 * last, 1.02 * last), ylim=(0, 1.02), xlabel="meta-steps")
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", ncols=3, frameon=False)
    figure.suptitle("Queries right after adaptation", x=0.03, ha="left", size=15, color=INK)


def draw_comparison(figure: Any, comparison: Comparison) -> None:
    rows = [row for row in comparison.rows if row.refusal is None]
    panels: tuple[Any, ...] = (
        ("error against exact", BAD, [row.error for row in rows], "{:.2g}"),
        ("time, ms", INK, [1e3 * row.seconds for row in rows], "{:.0f}"),
        ("peak memory, MB", GOOD, [row.memory / 1e6 for row in rows], "{:.0f}"),
    )
    for i, (title, colour, values, form) in enumerate(panels):
        axes = figure.add_axes((0.31 + 0.235 * i, 0.10, 0.165, 0.68))
        bars = axes.barh(
            [row.label + " *" * row.own_problem for row in rows], values, color=colour, alpha=0.85
        )
        axes.bar_label(bars, [form.format(x) if x else "exact" for x in values], padding=4, color=INK)
        axes.set_title(title, loc="left", size=11, color=INK)
        axes.set(xticks=[], ylim=(len(rows) - 0.4, -0.6))
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.tick_params(left=False, labelleft=i == 0, labelcolor=INK)
    figure.text(0.03, 0.02, "* with a proximal term, measured against the exact gradient with one", color=INK)
    figure.suptitle("What every estimator makes of it", x=0.03, ha="left", size=15, color=INK)


if __name__ == "__main__":
    main(tyro.cli(Options))
