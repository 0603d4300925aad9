"""Omniglot with uncertainty: MAML, ABML and iBaML side by side, by accuracy, likelihood and calibration.

    python examples/bayes_omniglot.py --data omniglot28.npz --methods maml abml ibaml
    python examples/bayes_omniglot.py --methods abml --samples 2 --width 32      # the letters that ship with metafunc

A prior over the net's parameters is meta-learned; a task's posterior is found by gradient descent on its ELBO, and
answers are averaged over samples of it. ABML differentiates the steps of the descent and has a Gamma hyper-prior on the
prior's precisions; iBaML differentiates the solution. MAML is a point: one sample, no divergence.
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

import metafunc as mf
from metafunc import bayes

Method = Literal["maml", "abml", "ibaml"]


@dataclass(frozen=True)
class Options:
    """Meta-train priors, and test what their posteriors say of unseen characters."""

    data: Path | None = None  # Omniglot in any form of docs/data.md; letters that ship if not given.
    methods: tuple[Method, ...] = ("maml", "abml", "ibaml")
    ways: int = 5
    shots: int = 1
    queries: int = 5  # Of each class in training; 15 in validation and test.
    width: int = 32  # Channels of the net.
    steps: int = 2000  # Meta-steps.
    batch: int = 4  # Tasks in a meta-step.
    lr: float = 2e-3  # Adam's learning rate, falling to zero along a cosine.
    inner_steps: int = 5
    inner_lr: float = 0.1
    samples: int = 2  # Of the posterior in training.
    test_samples: int = 10
    variance: float = 1e-4  # Of the prior at the start.
    divergence: float = 5e-5  # Its weight beside the mean loss; 1 / (ways * shots) is Bayes' rule.
    hyper: float = 1e-8  # The weight of ABML's hyper-prior beside the mean loss of all tasks.
    cg_steps: int = 5  # Of iBaML.
    cg_damping: float = 10.0  # Of iBaML: added to the diagonal, as nets with kinks have no definite Hessian.
    test_tasks: int = 600
    validate_every: int = 500
    seed: int = 0
    device: str = "cpu"
    quick: bool = False  # A few steps of a small net, in seconds.
    out: Path = Path("runs/bayes_omniglot")


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (bayes.class_log_probabilities(outputs).argmax(-1) == targets).to(outputs.dtype).mean()


def predictive_nll(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.nll_loss(bayes.class_log_probabilities(outputs), targets)


def learner(method: Method, options: Options) -> bayes.BayesianLearner:
    torch.manual_seed(options.seed)
    net = mf.nets.conv4(options.ways, channels=1, width=options.width, side=28, shrink="stride")
    prior = bayes.Prior(net, options.variance).to(options.device)
    point = method == "maml"
    prior.log_variance.requires_grad_(not point)
    adam = torch.optim.Adam([p for p in prior.parameters() if p.requires_grad], lr=options.lr)
    implicit = mf.Implicit(mf.CG(max_steps=options.cg_steps, damping=options.cg_damping))
    return bayes.BayesianLearner(
        prior,
        F.cross_entropy,
        adam,
        lambda problem: mf.gradient_descent(**problem, lr=options.inner_lr, steps=options.inner_steps),
        implicit if method == "ibaml" else mf.Explicit(),
        kl_weight=1e-12 if point else options.divergence,
        samples=1 if point else options.samples,
        test_samples=1 if point else options.test_samples,
        variance=0.0 if point else None,
        sampling=mf.Loop() if options.device == "cpu" else mf.Vmap(),
        hyperprior=(lambda theta: options.hyper * bayes.gamma_hyperprior(theta))
        if method == "abml"
        else None,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(adam, options.steps),
        clip=10.0,
        metrics={"accuracy": accuracy, "nll": predictive_nll},
        seed=options.seed,
    )


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, width=8, steps=3, batch=2, test_tasks=20, validate_every=3, test_samples=2)
    omniglot = mf.data.glyphs() if options.data is None else mf.data.read(options.data)
    omniglot, few = omniglot.to(options.device), (options.ways, options.shots)
    episodes = {name: mf.data.Episodes(omniglot.split(name), *few, queries=15) for name in ("val", "test")}
    # A character turned by a quarter is another one: four times the classes to train on.
    episodes["train"] = mf.data.Episodes(omniglot.split("train"), *few, options.queries, rotations=True)

    rows: list[dict[str, object]] = []
    judged: dict[str, tuple[Tensor, Tensor]] = {}
    for method in options.methods:
        trained = learner(method, options)
        run = mf.training.train(
            trained,
            episodes["train"],
            steps=options.steps,
            batch=options.batch,
            folder=options.out / method,
            validation=mf.training.Validation(
                episodes["val"],
                count=20 if options.quick else 100,
                every=options.validate_every,
                monitor="nll",
                higher_is_better=False,
            ),
            seed=options.seed,
            settings={name: str(value) for name, value in asdict(options).items() if name != "out"},
            tensorboard=False,
        )
        judged[method] = bayes.answers(trained, episodes["test"], options.test_tasks, seed=2)
        row: dict[str, object] = {"method": method, "steps": run.steps, "minutes": round(run.seconds / 60, 1)}
        figures = bayes.calibration(*judged[method])
        intervals = bayes.calibration_intervals(*judged[method], resamples=20 if options.quick else 200)
        for name, value, interval in zip(figures._fields, figures, intervals, strict=True):
            row |= {name: value.item(), f"{name}_interval": interval.item()}
        rows.append(row)
    report(rows, options)
    picture = bayes.draw_reliability(judged, options.out / "reliability.png")
    print(f"wrote {picture}")


def report(rows: list[dict[str, object]], options: Options) -> None:
    table = Table("method", *bayes.Calibration._fields, title=f"{options.ways}-way {options.shots}-shot")
    for row in rows:
        cells = [f"{row[name]:.4f} ± {row[f'{name}_interval']:.4f}" for name in bayes.Calibration._fields]
        table.add_row(str(row["method"]), *cells)
    Console().print(table)
    with (options.out / "test.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (options.out / "options.json").write_text(json.dumps(asdict(options), indent=2, default=str) + "\n")
    print(f"wrote {options.out / 'test.csv'}")


if __name__ == "__main__":
    main(tyro.cli(Options))
