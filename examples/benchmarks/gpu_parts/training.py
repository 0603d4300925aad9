"""Omniglot in minutes: 5 ways, 1 shot, the papers' network, 32 tasks a step, a fixed time for each method."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import metafunc as mf
from gpu_parts.measure import Part

LR, PROX = 0.1, 0.5
METHODS: dict[str, tuple[mf.Estimator, dict[str, Any], float | None]] = {
    # The last figure is that of imaml's Table 2, after some 60,000 meta-steps.
    "MAML": (mf.Explicit(), {"steps": 5}, 98.7),
    "FOMAML": (mf.FirstOrder(), {"steps": 5}, 98.3),
    "BinomMAML, L = 2": (mf.Binomial(2), {"steps": 5}, None),
    # The net has kinks, so that its Hessian is far from definite: without damping the linear solves end early.
    "iMAML": (mf.Implicit(mf.CG(5, damping=10.0, early_exit=False)), {"steps": 16, "prox": PROX}, 99.16),
}


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(-1) == targets).float().mean()


def train(part: Part) -> None:
    """One method; Adam's learning rate falls to zero along a cosine of the time."""
    method, seconds, path = (part.options[name] for name in ("method", "train_seconds", "data"))
    seconds = min(seconds, 2.0) if part.quick else seconds
    images = mf.data.glyphs() if path is None else mf.data.read(path)
    estimator, inner, paper = METHODS[method]
    torch.manual_seed(0)
    width, side = (8 if part.quick else 64), images.images.shape[-1]
    net = mf.nets.conv4(5, channels=1, width=width, side=side, shrink="stride").to(part.device)
    adam = torch.optim.Adam(net.parameters(), lr=2e-3)
    meta = mf.MetaOptimizer(
        net,
        F.cross_entropy,
        adam,
        lambda problem: mf.gradient_descent(**problem, lr=LR, **inner),
        estimator,
        clip=10.0,
        metrics={"accuracy": accuracy},
    )
    tasks = mf.data.Episodes(images.split("train").to(part.device), 5, 1, 5, rotations=True)
    draw, batch = torch.Generator().manual_seed(0), (4 if part.quick else 32)
    meta.step(tasks.sample(batch, draw))  # libraries are loaded and kernels chosen before the clock starts
    start = shown = time.monotonic()
    gone = 0.0
    while gone < seconds:
        for group in adam.param_groups:
            group["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * gone / seconds))
        found = meta.step(tasks.sample(batch, draw))
        if time.monotonic() - shown > seconds / 12:
            shown = time.monotonic()
            loss, share = found.loss.item(), found.metrics["accuracy"].item()
            part.write(progress=method, seconds=shown - start, steps=meta.steps, loss=loss, accuracy=share)
        elif part.device != "cpu" and meta.steps % 20 == 0:
            torch.cuda.synchronize()  # else steps are queued for long after the time is over
        gone = time.monotonic() - start
    test = mf.data.Episodes(images.split("test").to(part.device), 5, 1, 15)
    score = mf.training.evaluate(meta, test, 20 if part.quick else 1000, batch=20, seed=2)["accuracy"]
    part.write(
        trained=method,
        seconds=gone,
        steps=meta.steps,
        accuracy=100 * score.mean,
        interval=100 * score.interval,
        tasks=score.tasks,
        paper=paper,
        omniglot=path is not None,
    )
