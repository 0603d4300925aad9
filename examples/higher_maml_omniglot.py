"""MAML on Omniglot as users of higher write it; which library takes the inner steps is one import.

The loop has the shape of higher's example maml-omniglot.py: a small conv net with batch statistics, 5-way 1-shot
tasks, inner SGD, outer Adam, one backward() for each task. With the import changed the losses stay the same, and
``--estimator`` then gives the same loop another meta-gradient.

    python examples/higher_maml_omniglot.py --module higher
    python examples/higher_maml_omniglot.py --module metafunc
    python examples/higher_maml_omniglot.py --module metafunc --estimator first-order --data omniglot28.npz

Without ``--data`` the tasks are of the letters that ship with metafunc. ``--data`` takes an .npz with the arrays
``bits`` (packed pixels), ``shape`` ([classes, drawings, height, width]), ``names`` and ``split_vinyals`` (0, 1, 2 for
training, validation and test).
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

import metafunc as mf

Task = tuple[Tensor, Tensor, Tensor, Tensor]

ESTIMATORS = {
    "explicit": mf.Explicit(),
    "first-order": mf.FirstOrder(),
    "truncated": mf.Truncated(2),
    "binomial": mf.Binomial(2),
    "implicit": mf.Implicit(mf.CG(max_steps=5, damping=1.0)),
}


def read(path: Path) -> mf.data.ImageDataset:
    """The data set in an .npz file."""
    with np.load(path) as arrays:
        classes, drawings, height, width = arrays["shape"].tolist()
        pixels = np.unpackbits(arrays["bits"], axis=-1, count=height * width)
        splits = {
            name: torch.as_tensor(np.flatnonzero(arrays["split_vinyals"] == i))
            for i, name in enumerate(("train", "val", "test"))
        }
        names = tuple(str(name) for name in arrays["names"])
    images = torch.as_tensor(pixels).reshape(classes * drawings, 1, height, width)
    labels = torch.arange(classes).repeat_interleave(drawings)
    return mf.data.ImageDataset(images, labels, names, splits, peak=1)


def network(width: int, ways: int) -> nn.Module:
    """Three blocks of convolution, batch norm, ReLU and pooling."""
    layers: list[nn.Module] = []
    for channels in (1, width, width):
        layers += [nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width, momentum=1.0), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, ways))


def adapt_and_judge(net: nn.Module, opt: Any, task: Task, context: Any, args: Any, train: bool) -> Tensor:
    """The query loss and accuracy of one task; in training its gradient is added to that of ``net``."""
    x, y, x_query, y_query = task
    with context(net, opt, copy_initial_weights=False, track_higher_grads=train) as (fnet, diffopt):
        for _ in range(args.inner_steps):
            loss = F.cross_entropy(fnet(x), y)
            if args.estimator == "implicit":  # what ties the solution to the meta-parameters
                pairs = zip(fnet.parameters(), net.parameters(), strict=True)
                loss = loss + 0.5 * args.prox * sum(((p - q) ** 2).sum() for p, q in pairs)
            diffopt.step(loss)
        logits = fnet(x_query)
        loss = F.cross_entropy(logits, y_query)
        if train:
            loss.backward()
    return torch.stack([loss.detach(), (logits.argmax(1) == y_query).float().mean()])


def tasks(episodes: mf.data.Episodes, count: int, chance: torch.Generator) -> Iterator[Task]:
    batch = episodes.sample(count, chance)
    return zip(*batch["support"], *batch["query"], strict=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--module", choices=("higher", "metafunc"), default="metafunc")
    parser.add_argument("--estimator", choices=ESTIMATORS, default="explicit")
    parser.add_argument("--data", type=Path, help="an .npz with Omniglot; default: the letters of metafunc")
    parser.add_argument("--steps", type=int, default=100, help="meta-steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", type=int, default=16, help="tasks of a meta-step")
    parser.add_argument("--width", type=int, default=32, help="channels")
    parser.add_argument("--inner-steps", type=int, default=5)
    parser.add_argument("--prox", type=float, default=2.0, help="proximal weight of the implicit estimator")
    parser.add_argument("--double", action="store_true", help="double precision")
    parser.add_argument("--quick", action="store_true", help="3 meta-steps of 2 tasks with a narrow net")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.tasks, args.width = min(args.steps, 3), 2, 4
    if args.module == "higher" and args.estimator != "explicit":
        parser.error("higher has one estimator, --estimator explicit; the others take --module metafunc")

    higher: Any = importlib.import_module("higher" if args.module == "higher" else "metafunc.interop.higher")
    chosen = {} if args.module == "higher" else {"estimator": ESTIMATORS[args.estimator]}

    def context(*given: Any, **options: Any) -> Any:
        return higher.innerloop_ctx(*given, **options, **chosen)

    torch.set_default_dtype(torch.float64 if args.double else torch.float32)
    torch.manual_seed(args.seed)
    chance = torch.Generator().manual_seed(args.seed)
    images = mf.data.glyphs() if args.data is None else read(args.data)
    splits = {
        name: mf.data.Episodes(images.split(name), rotations=True, dtype=torch.get_default_dtype())
        for name in ("train", "test")
    }
    net = network(args.width, ways=5)
    meta_opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    inner_opt = torch.optim.SGD(net.parameters(), lr=0.1)

    start = time.perf_counter()
    for step in range(1, args.steps + 1):
        meta_opt.zero_grad()
        judged = [
            adapt_and_judge(net, inner_opt, task, context, args, train=True)
            for task in tasks(splits["train"], args.tasks, chance)
        ]
        for p in net.parameters():
            p.grad = None if p.grad is None else p.grad / args.tasks
        meta_opt.step()
        loss, accuracy = torch.stack(judged).mean(0).tolist()
        print(f"step {step:5d}  query loss {loss:.12f}  accuracy {accuracy:.3f}", flush=True)
    elapsed = time.perf_counter() - start
    judged = [
        adapt_and_judge(net, inner_opt, task, context, args, train=False)
        for task in tasks(splits["test"], 4 * args.tasks, chance)
    ]
    loss, accuracy = torch.stack(judged).mean(0).tolist()
    print(f"test        query loss {loss:.12f}  accuracy {accuracy:.3f}")
    print(f"{args.module}, {args.estimator}: {1000 * elapsed / max(1, args.steps):.0f} ms a meta-step")


if __name__ == "__main__":
    main()
