"""Errors of meta-gradients on sinusoids: figure 3 of binommaml.

K = 5 steps, 10 points a task, meta-batches of 10 tasks, no meta-training, as in appendix C.1; a net 1-40-40-1 of
ReLUs at its initialisation and lr = 0.01 are chosen here, and errors for other learning rates are measured beside. An
error is the norm of estimate minus exact gradient of one task, meaned over the tasks of a meta-batch. In float64: the
errors of Binomial(4) at small learning rates are below what float32 can tell apart.

    python examples/papers/binommaml_fig3.py
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from matplotlib.figure import Figure
from report import Row, Run, print_table, save, verdict, write_csv
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import metafunc as mf

K, TASKS, LR = 5, 10, 0.01
METHODS: dict[str, tuple[Any, str]] = {
    "FirstOrder": (lambda _: mf.FirstOrder(), "#7f7f7f"),
    "Truncated": (mf.Truncated, "#d55e00"),
    "Binomial": (mf.Binomial, "#0072b2"),
    "Binomial, rescaled lr": (partial(mf.Binomial, rescale=True), "#56b4e9"),
}


@dataclass(frozen=True)
class Options(Run):
    """Measure the errors of meta-gradients at initialisation."""

    seeds: int = 5  # Nets; the first sees all meta-batches, the others a tenth of them.
    batches: int = 1000  # Meta-batches of 10 tasks.
    lrs: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.03)  # Others, on a tenth of the meta-batches.


def errors(seed: int, lr: float, batches: int) -> dict[tuple[str, int], Tensor]:
    """The mean error of each meta-batch over the mean norm of all exact gradients, by method and L."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)).double()
    params = {name: value.detach() for name, value in net.named_parameters()}
    tasks = mf.data.Sinusoids(dtype=torch.float64)
    draws = torch.Generator().manual_seed(seed)

    def loss(phi: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.mse_loss(functional_call(net, phi, batch[0]), batch[1])

    inner = mf.gradient_descent(loss, lr=lr, steps=K)

    def gradients(estimator: mf.Estimator, batch: mf.data.Tasks) -> Tensor:
        adapt = estimator(inner)
        one = grad(lambda theta, s, q: loss(adapt(theta, s), q))
        found = vmap(one, in_dims=(None, 0, 0))(params, batch["support"], batch["query"])
        return torch.cat([x.flatten(1) for x in found.values()], 1)

    found: dict[tuple[str, int], list[Tensor]] = {(name, n): [] for name in METHODS for n in range(K)}
    norms: list[Tensor] = []
    for start in range(0, batches, 50):
        count = min(50, batches - start)
        batch = tasks.sample(TASKS * count, draws)
        exact = gradients(mf.Explicit(), batch)
        norms.append(exact.norm(dim=1))
        first = (gradients(mf.FirstOrder(), batch) - exact).norm(dim=1)
        for (name, n), own in found.items():
            # With L = 0, or without an L at all, every method is the first-order one.
            alike = n == 0 or name == "FirstOrder"
            error = first if alike else (gradients(METHODS[name][0](n), batch) - exact).norm(dim=1)
            own.append(error.unflatten(0, (count, TASKS)).mean(1))
    scale = torch.cat(norms).mean()
    return {key: torch.cat(own) / scale for key, own in found.items()}


def measure(options: Options) -> tuple[list[Row], list[Row]]:
    """Rows for meta-batches at L = 4, and for means over them against L."""
    batches = 5 if options.quick else options.batches
    fewer = max(5, batches // 10)
    runs = [(0, LR, batches)]
    runs += [(seed, LR, fewer) for seed in range(1, 2 if options.quick else options.seeds)]
    runs += [(0, lr, fewer) for lr in (() if options.quick else options.lrs)]
    single: list[Row] = []
    means: list[Row] = []
    for seed, lr, count in runs:
        found = errors(seed, lr, count)
        for (method, n), error in found.items():
            means.append(
                {"lr": lr, "seed": seed, "method": method, "L": n, "batches": count}
                | {"mean": float(error.mean()), "least": float(error.min()), "largest": float(error.max())}
            )
            if (seed, lr, n) == (0, LR, K - 1):
                own = enumerate(error[:100].tolist())
                single += [{"method": method, "batch": i, "error": e} for i, e in own]
    return single, means


def compare(means: list[Row]) -> list[Row]:
    """The two ratios that the paper speaks of, for every learning rate and initialisation."""
    of = {(row["lr"], row["seed"], row["method"], row["L"]): row["mean"] for row in means}
    runs = list(dict.fromkeys((row["lr"], row["seed"]) for row in means))
    return [
        {"lr": lr, "seed": seed}
        | {"Truncated(4) / Binomial(4)": of[lr, seed, "Truncated", 4] / of[lr, seed, "Binomial", 4]}
        | {"Binomial(1) / Truncated(4)": of[lr, seed, "Binomial", 1] / of[lr, seed, "Truncated", 4]}
        for lr, seed in runs
    ]


def chart(single: list[Row], means: list[Row]) -> Figure:
    """The error at L = 4 for single meta-batches; means against L, with the range over initialisations."""
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for method, (_, colour) in METHODS.items():
        own = [row for row in single if row["method"] == method]
        left.plot([row["batch"] for row in own], [row["error"] for row in own], color=colour, label=method)
        by_seed = [row for row in means if (row["method"], row["lr"]) == (method, LR)]
        lines = [[row["mean"] for row in by_seed if row["L"] == n] for n in range(K)]
        right.plot(range(K), [line[0] for line in lines], "o-", color=colour, markersize=4)
        low, high = [min(line) for line in lines], [max(line) for line in lines]
        right.fill_between(range(K), low, high, color=colour, alpha=0.15, linewidth=0)
    left.set(
        yscale="log", xlabel="meta-batch", title="L = 4", ylabel="error / norm of the exact meta-gradient"
    )
    right.set(xlabel="L", title="mean over meta-batches; bands: 5 initialisations", xticks=range(K))
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(linewidth=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def main(options: Options) -> None:
    torch.set_num_threads(1)
    single, means = measure(options)
    shown = [row for row in means if (row["lr"], row["seed"]) == (LR, 0)]
    print_table(
        "Mean errors over the mean norm of the exact meta-gradient; the others are in means.csv", shown
    )
    ratios = compare(means)
    print_table("Ratios of the mean errors", ratios)
    out = options.out / "binommaml_fig3"
    write_csv(single, out / "batches.csv")
    write_csv(means, out / "means.csv")
    write_csv(ratios, out / "ratios.csv")
    save(chart(single, means), out / "binommaml_fig3.png")
    here = [row for row in ratios if row["lr"] == LR]
    below = [row["Truncated(4) / Binomial(4)"] for row in here]
    near = [row["Binomial(1) / Truncated(4)"] for row in here]
    verdict(
        {
            f"lr = {LR}: Binomial(4) beats Truncated(4) by 1e3 to 1e4": 1e3
            <= min(below)
            <= max(below)
            <= 1e4,
            f"lr = {LR}: Binomial(1) is within a factor of 2 of Truncated(4)": 0.5
            < min(near)
            <= max(near)
            < 2,
        }
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
