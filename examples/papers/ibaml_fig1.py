"""Figure 1 of iBaML: how near explicit and implicit Bayesian meta-gradients come to the exact one, by inner steps.

The experiment of section 4.1 and appendix A.4 (Zhang et al. 2023): Bayesian linear regression in d = 32 dimensions,
sigma = 0.01, 32 points to learn from and 64 to be judged by, inputs of condition number 20, task weights from N(0, I),
gradient descent with lr = 0.01 on means and log-variances, 64 samples; the estimates are those of the first meta-step.

Exact is what the objective itself implies, by dense algebra in float64:

    m_t = (A + D^-1)^-1 (D^-1 m + b),   d_t = 1 / (diag A + 1 / d),   A = X X^T / sigma^2,   b = X y / sigma^2

(the paper's (20b) has A / 2 in the second, which is no minimum of its own objective), and the derivative of the
expected query loss there. The figure's error is ||estimate - exact|| / ||exact||, of means and log-variances together
and by themselves.

What the paper leaves open and is chosen here. Summed and divided by sigma^2 as written, the loss has eigenvalues of
10^4 times those of X X^T, and lr = 0.01 diverges. So the objective is multiplied by sigma^2, which leaves its minimum
where it is: half the sum of squares, and the divergence with the weight sigma^2 = 10^-4. The exact gradient is then
nearly zero, as a prior hardly matters beside 32 points of so little noise, and no error relative to it is small. The
second panel has the weight 1, for which 32 points leave something to the prior; the crossing that the paper reports is
to be looked for there. The largest eigenvalue of X X^T is ``--largest``, singular values are evenly spaced, and the
prior at the first step has a mean from N(0, 0.1 I) and the variance ``--variance``.

    python examples/papers/ibaml_fig1.py
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from numpy.typing import NDArray
from report import Row, Run, print_table, save, verdict, write_csv
from torch import Tensor
from torch.func import grad, vmap

import metafunc as mf
from metafunc import bayes

Array = NDArray[np.float64]
DIM, KAPPA, SIGMA, POINTS, QUERIES = 32, 20.0, 0.01, 32, 64
COLOURS = ("#c8553d", "#9db4c8", "#1b3a5c", "#8fc3b5", "#1d7f72")


@dataclass(frozen=True)
class Options(Run):
    """The size of the experiment."""

    tasks: int = 8  # In each draw.
    seeds: int = 5  # Draws of tasks, prior and noise.
    steps: tuple[int, ...] = (1, 2, 3, 5, 8, 12, 20, 32, 50)  # K.
    samples: int = 64  # Of the posterior.
    cg_steps: tuple[int, ...] = (2, 5)  # L.
    lr: float = 0.01
    weights: tuple[float, ...] = (SIGMA**2, 1.0)  # Of the divergence beside half the sum of squares.
    largest: float = 100.0  # The largest eigenvalue of X X^T of the points to learn from.
    variance: float = 1.0  # Of the prior.


@dataclass(frozen=True)
class Tasks:
    """Regressions along a first axis, and the prior."""

    mean: Array
    log_variance: Array
    support: tuple[Array, Array]
    query: tuple[Array, Array]


def draw(options: Options, seed: int) -> Tasks:
    chance = np.random.default_rng(seed)
    spectrum = np.sqrt(options.largest) * np.linspace(1 / KAPPA, 1, DIM)

    def batch(points: int, weights: Array) -> tuple[Array, Array]:
        rows, _ = np.linalg.qr(chance.standard_normal((options.tasks, points, DIM)))
        turn, _ = np.linalg.qr(chance.standard_normal((options.tasks, DIM, DIM)))
        x = np.sqrt(points / POINTS) * (rows * spectrum) @ turn.swapaxes(-1, -2)
        noise = SIGMA * chance.standard_normal((options.tasks, points))
        return x, (x @ weights[..., None])[..., 0] + noise

    weights = chance.standard_normal((options.tasks, DIM))
    mean = np.sqrt(0.1) * chance.standard_normal(DIM)
    return Tasks(
        mean, np.full(DIM, np.log(options.variance)), batch(POINTS, weights), batch(QUERIES, weights)
    )


def exact(tasks: Tasks, weight: float) -> Array:
    """The meta-gradient at the solution for every task, means first, then log-variances."""
    found: list[Array] = []
    precision = weight * np.exp(-tasks.log_variance)
    for x, y, u, v in zip(*tasks.support, *tasks.query, strict=True):
        a, q = x.T @ x, u.T @ u
        mean = np.linalg.solve(a + np.diag(precision), precision * tasks.mean + x.T @ y)
        variance = weight / (np.diag(a) + precision)
        bar = precision * np.linalg.solve(a + np.diag(precision), q @ mean - u.T @ v)
        of_variance = 0.5 * np.diag(q) * variance**2 * np.exp(-tasks.log_variance)
        found.append(np.concatenate([bar, bar * (mean - tasks.mean) + of_variance]))
    return np.stack(found)


def loss(params: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """sigma^2 times the negative log-likelihood."""
    x, y = batch
    return 0.5 * ((x @ params - y) ** 2).sum()


def estimates(tasks: Tasks, options: Options, weight: float, steps: int, seed: int) -> dict[str, Array]:
    """The meta-gradient of every task by every estimator."""
    elbo = bayes.Elbo(loss, kl_weight=weight)
    inner = mf.gradient_descent(**elbo.problem, lr=options.lr, steps=steps)
    theta = {"mean": torch.from_numpy(tasks.mean), "log_variance": torch.from_numpy(tasks.log_variance)}
    chance = torch.Generator().manual_seed(seed)
    inside, outside = (
        bayes.noise(theta["mean"], options.samples, chance, tasks=options.tasks) for _ in range(2)
    )
    support, query = (tuple(map(torch.from_numpy, part)) for part in (tasks.support, tasks.query))

    def found(adapt: Any) -> Array:
        def meta_loss(theta: Any, support: Any, query: Any, inside: Tensor, outside: Tensor) -> Tensor:
            return elbo.expected(adapt(theta, support, inside), query, outside)

        bar = vmap(grad(meta_loss), (None, 0, 0, 0, 0))(theta, support, query, inside, outside)
        return torch.cat([bar["mean"], bar["log_variance"]], -1).numpy()

    lines = {"explicit (ABML)": found(mf.Explicit()(inner))}
    for cg_steps in options.cg_steps:
        estimator = mf.Implicit(mf.CG(max_steps=cg_steps, rtol=0.0))
        lines[f"implicit, L = {cg_steps}"] = found(estimator(inner))
        lines[f"closed form, L = {cg_steps}"] = found(estimator(bayes.fixed_point(inner)))
    return lines


def errors(options: Options, weight: float, seed: int) -> list[Row]:
    tasks = draw(options, seed)
    wanted = exact(tasks, weight)
    rows: list[Row] = []
    for steps in options.steps:
        for name, found in estimates(tasks, options, weight, steps, seed).items():
            error = np.linalg.norm(found - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)
            rows.append(
                {"weight": weight, "seed": seed, "estimator": name, "steps": steps, "nrmse": error.mean()}
            )
    return rows


def of_line(rows: list[Row], name: str) -> tuple[list[int], Array]:
    """Steps, and the errors [seeds, steps]."""
    steps, seeds = (sorted({row[key] for row in rows}) for key in ("steps", "seed"))
    cell = {(row["seed"], row["steps"]): row["nrmse"] for row in rows if row["estimator"] == name}
    return steps, np.array([[cell[seed, k] for k in steps] for seed in seeds])


def summary(rows: list[Row]) -> list[Row]:
    """How near each line comes, and where each draw's goes below the explicit one."""
    steps, explicit = of_line(rows, "explicit (ABML)")
    table: list[Row] = []
    for name in dict.fromkeys(row["estimator"] for row in rows):
        error = of_line(rows, name)[1]
        below = [[k for k, less in zip(steps, line, strict=True) if less] for line in error < explicit]
        first = ", ".join(str(own[0]) if own else "-" for own in below)
        ends = {f"K = {k}": float(error.mean(0)[i]) for i, k in ((0, steps[0]), (-1, steps[-1]))}
        table.append({"weight": rows[0]["weight"], "estimator": name} | ends | {"below explicit from": first})
    return table


def chart(rows: list[Row]) -> Figure:
    """The errors against K, a panel for each weight."""
    weights = list(dict.fromkeys(row["weight"] for row in rows))
    figure = Figure(figsize=(5.4 * len(weights), 4.6), layout="constrained")
    for axes, weight in zip(figure.subplots(1, len(weights), squeeze=False)[0], weights, strict=True):
        own = [row for row in rows if row["weight"] == weight]
        for name, colour in zip(dict.fromkeys(row["estimator"] for row in own), COLOURS, strict=False):
            steps, error = of_line(own, name)
            style = "--" if name.startswith("closed") else "-"
            axes.plot(steps, error.mean(0), style, marker="o", markersize=3.5, color=colour, label=name)
            axes.fill_between(steps, error.min(0), error.max(0), color=colour, alpha=0.15, linewidth=0)
        axes.set(xscale="log", yscale="log", xlabel="inner gradient steps K")
        axes.set_title(f"weight of the divergence {weight:g}", fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(linewidth=0.3)
    figure.axes[0].set_ylabel("NRMSE (the band holds all seeds)")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def main(options: Options) -> None:
    torch.set_num_threads(1)
    if options.quick:
        options = replace(options, tasks=2, seeds=1, steps=(1, 4), samples=8)
    rows: list[Row] = []
    table: list[Row] = []
    for weight in options.weights:
        own = [row for seed in range(options.seeds) for row in errors(options, weight, seed)]
        table += summary(own)
        rows += own
    print_table("NRMSE, means over draws; the first K below explicit, by draw", table)
    out = options.out / "ibaml_fig1"
    write_csv(rows, out / "lines.csv")
    write_csv(table, out / "summary.csv")
    save(chart(rows), out / "ibaml_fig1.png")
    last = f"K = {options.steps[-1]}"
    claims: dict[str, bool] = {}
    for weight in options.weights:
        of = {row["estimator"]: row for row in table if row["weight"] == weight}
        explicit, implicit = of["explicit (ABML)"], of[f"implicit, L = {options.cg_steps[-1]}"]
        closed = of[f"closed form, L = {options.cg_steps[-1]}"]
        first = f"K = {options.steps[0]}"
        claims[f"weight {weight:g}: implicit ends nearer than explicit"] = implicit[last] < explicit[last]
        claims[f"weight {weight:g}: explicit starts nearer than implicit"] = explicit[first] < implicit[first]
        claims[f"weight {weight:g}: explicit starts nearer than the closed form"] = (
            explicit[first] < closed[first]
        )
    verdict(claims)


if __name__ == "__main__":
    main(tyro.cli(Options))
