"""Few-shot classification, whatever the images are: the part that omniglot.py and its like share.

A net, an optimizer, an inner problem and an estimator make a `mf.MetaOptimizer`; `mf.training.train` trains it on the
classes of the split "train" and validates it on those of "val"; what validated best is tested on those of "test".
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from options import Training
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import metafunc as mf


@dataclass(frozen=True)
class FewShot(Training):
    """The tasks."""

    ways: int = 5  # Classes in a task.
    shots: int = 1  # Images of each to learn it from.
    queries: int = 15  # Images of each to be judged by.
    test_tasks: int = 1000  # Tasks of the test at the end.


@dataclass(frozen=True)
class Photographs(FewShot):
    """The tasks, and what is done to photographs."""

    width: int = 32  # Channels of the net.
    augment: bool = False  # Flip, shift and recolour the training images at random.


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(-1) == targets).float().mean()


def episodes_of(options: Photographs, images: mf.data.ImageDataset) -> dict[str, mf.data.Episodes]:
    """Episodes of every split, normalised channel by channel as the training classes are."""
    few = (options.ways, options.shots, options.queries)
    normalize = images.split("train").statistics()
    episodes = {
        name: mf.data.Episodes(images.split(name), *few, normalize=normalize, device=options.device)
        for name in images.splits
    }
    if options.augment:
        import kornia.augmentation as kornia  # which takes seconds

        side = images.images.shape[-1]
        crop, recolour = (
            kornia.RandomCrop((side, side), padding=side // 10),
            kornia.ColorJiggle(0.4, 0.4, 0.4),
        )
        augment = nn.Sequential(kornia.RandomHorizontalFlip(), crop, recolour)
        episodes["train"] = replace(episodes["train"], augment=augment)
    if "test" not in episodes:
        print("there is no test split: the validation classes stand in for it", flush=True)
        episodes["test"] = episodes["val"]
    return episodes


def meta_train(options: FewShot, net: nn.Module, episodes: dict[str, mf.data.Episodes], folder: Path) -> None:
    """Trains `net` on `episodes["train"]`, validates on "val" and tests on "test"."""
    net = net.to(options.device)
    meta = options.meta_optimizer(net, F.cross_entropy, accuracy=accuracy)
    name = f"{options.ways}-way-{options.shots}-shot-{options.estimator}-{options.seed}"
    run = options.train(meta, episodes["train"], episodes["val"], options.folder or folder / name)
    mf.training.draw_curves(run.folder, chance=1 / options.ways)
    if run.stopped == "interrupted":
        print(f"stopped after {run.steps} meta-steps; the same command goes on from there")
    else:
        test(options, meta, episodes["test"], run)


def test(options: FewShot, meta: mf.MetaOptimizer, episodes: mf.data.Episodes, run: mf.training.Run) -> None:
    """The test of the best state: a table, a file for other programs, and a picture of one task."""
    scores = mf.training.evaluate(meta, episodes, options.test_tasks, batch=options.chunk or 20, seed=2)
    title = f"{meta.estimator!r}: {options.ways}-way {options.shots}-shot, {options.test_tasks} tasks of unseen classes"
    print(title)
    table = Table("figure", "mean", "95 % interval")
    for name, score in scores.items():
        table.add_row(name, f"{score.mean:.4f}", f"± {score.interval:.4f}")
    Console().print(table)
    print(f"best at step {run.best_step} of {run.steps}, after {run.seconds / 60:.1f} minutes in all")

    about = {"estimator": repr(meta.estimator), **asdict(run), "folder": str(run.folder)}
    result = about | {name: asdict(score) for name, score in scores.items()}
    (run.folder / "test.json").write_text(
        json.dumps(result, indent=2, default=asdict) + "\n", encoding="utf-8"
    )

    task = episodes.sample(1, torch.Generator().manual_seed(3))
    support, query = ((x[0], y[0]) for x, y in (task["support"], task["query"]))
    with torch.no_grad():
        answers = meta.adapt(support)(query[0]).argmax(-1)
    if episodes.normalize is not None:
        mean, std = (torch.as_tensor(v, dtype=torch.float32).reshape(-1, 1, 1) for v in episodes.normalize)
        support, query = ((x.cpu() * std + mean, y) for x, y in (support, query))
    mf.training.draw_episode(support, query, answers, run.folder / "episode.png")
    print(f"{run.folder}: curves.png, episode.png, training.csv, validation.csv, test.json, best.pt")
