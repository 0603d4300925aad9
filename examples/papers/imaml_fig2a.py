"""Figure 2a of iMAML: how near Explicit and Implicit come to the exact meta-gradient, by number of inner steps.

The experiment of appendix F.1 (Rajeswaran et al. 2019): linear regression in d = 50 dimensions, prox = 5, gradient
descent as the inner solver. For a task with A = E[x x^T] and m = E[x y] everything is known in closed form:

    phi* = (A + prox I)^-1 (prox theta + m),     exact meta-gradient = prox (A + prox I)^-1 grad L(phi*).

(The paper writes b = -m; its "b = E[x^T y]" has lost the sign.) "Exact" is meant for the *solution* phi*. Explicit
is exact for the *path* of K steps at every K, which is checked here too, and tends to the derivative of the
solution only as the path tends to the solution; Implicit is off by what phi_K lacks and by what its CG lacks.

What the paper leaves open and is chosen here: kappa = 50 is the condition number of A, whose eigenvalues are evenly
spaced, from 1 to 50 in one panel and from 0.02 to 1 in the other. Beside prox = 5 the scale matters: the condition
of A + prox I, which decides how fast gradient descent and CG are, is 9.2 in the first and 1.2 in the second. Then
lr = 1 / (largest eigenvalue + prox), and the outer loss is the regression loss on query data of the same spectrum
in other directions.

    python examples/papers/imaml_fig2a.py
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.func import grad, vmap

import metafunc as mf

Array = NDArray[np.float64]

DIM, KAPPA, PROX = 50, 50.0, 5.0
CG_STEPS = (2, 5, 20)
COLOURS = {
    "Explicit": "#c8553d",
    "Implicit, 2 CG": "#9db4c8",
    "Implicit, 5 CG": "#5b84a8",
    "Implicit, 20 CG": "#1b3a5c",
}


@dataclass(frozen=True)
class Tasks:
    """Several linear regressions, stacked along a first axis of tasks."""

    theta: Array
    support: tuple[Array, Array]
    query: tuple[Array, Array]


def draw(tasks: int, largest: float, seed: int, points: int = 100) -> Tasks:
    """Regressions whose ``A`` has eigenvalues evenly spaced from ``largest / KAPPA`` to ``largest``."""
    chance = np.random.default_rng(seed)
    spectrum = np.linspace(largest / KAPPA, largest, DIM)

    def inputs() -> Array:
        rows, _ = np.linalg.qr(chance.standard_normal((tasks, points, DIM)))
        directions, _ = np.linalg.qr(chance.standard_normal((tasks, DIM, DIM)))
        return np.sqrt(points) * (rows * np.sqrt(spectrum)) @ directions.swapaxes(-1, -2)

    def targets(x: Array, weights: Array) -> Array:
        return (x @ weights[..., None])[..., 0] + 0.1 * chance.standard_normal((tasks, points))

    weights, theta = chance.standard_normal((2, tasks, DIM))
    x, u = inputs(), inputs()
    return Tasks(theta, (x, targets(x, weights)), (u, targets(u, weights)))


def moments(batch: tuple[Array, Array]) -> tuple[Array, Array]:
    """``A = E[x x^T]`` and ``m = E[x y]`` of every task."""
    x, y = batch
    return x.swapaxes(-1, -2) @ x / x.shape[-2], (x.swapaxes(-1, -2) @ y[..., None])[..., 0] / x.shape[-2]


def product(matrix: Array, vector: Array) -> Array:
    """Matrix times vector for every task."""
    return (matrix @ vector[..., None])[..., 0]


def exact_for_solution(tasks: Tasks) -> Array:
    """The derivative of the outer loss at ``phi*`` in ``theta``, by dense algebra."""
    (a, m), (query_a, query_m) = moments(tasks.support), moments(tasks.query)
    system = a + PROX * np.eye(DIM)
    phi = np.linalg.solve(system, (PROX * tasks.theta + m)[..., None])[..., 0]
    slope = product(query_a, phi) - query_m
    return PROX * np.linalg.solve(system, slope[..., None])[..., 0]


def exact_for_path(tasks: Tasks, lr: float, steps: int) -> Array:
    """The derivative of the outer loss at ``phi_K`` in ``theta``, by dense algebra, step by step."""
    (a, m), (query_a, query_m) = moments(tasks.support), moments(tasks.query)
    shrink = np.eye(DIM) - lr * (a + PROX * np.eye(DIM))
    phi, jacobian = tasks.theta, np.broadcast_to(np.eye(DIM), a.shape)
    for _ in range(steps):
        phi = product(shrink, phi) + lr * (PROX * tasks.theta + m)
        jacobian = shrink @ jacobian + lr * PROX * np.eye(DIM)
    return product(jacobian.swapaxes(-1, -2), product(query_a, phi) - query_m)


def loss(phi: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Half the mean squared error of a linear model."""
    x, y = batch
    return 0.5 * ((x @ phi - y) ** 2).mean()


def meta_gradients(tasks: Tasks, estimator: mf.Estimator, lr: float, steps: int) -> Array:
    """The meta-gradient of every task by itself, as metafunc estimates it."""
    adapt = estimator(mf.gradient_descent(loss, lr=lr, steps=steps, prox=PROX))

    def meta_loss(theta: Tensor, support: Any, query: Any) -> Tensor:
        return loss(adapt(theta, support), query)

    def tensors(batch: tuple[Array, Array]) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(batch[0]), torch.from_numpy(batch[1])

    found = vmap(grad(meta_loss))(torch.from_numpy(tasks.theta), tensors(tasks.support), tensors(tasks.query))
    return found.numpy()


def relative_error(found: Array, wanted: Array) -> Array:
    """One number for every task."""
    return np.linalg.norm(found - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)


def estimators() -> dict[str, mf.Estimator]:
    """The lines of the figure. With rtol = 0, CG takes the steps it is given."""
    implicit = {f"Implicit, {n} CG": mf.Implicit(mf.CG(max_steps=n, rtol=0.0)) for n in CG_STEPS}
    return {"Explicit": mf.Explicit(), **implicit}


def errors_at(largest: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one panel."""
    tasks = draw(options.tasks, largest, options.seed)
    lr = 1 / (largest + PROX)
    wanted = exact_for_solution(tasks)
    grid = sorted({round(k) for k in np.geomspace(1, options.max_steps, options.points)})
    rows: list[dict[str, Any]] = []
    apart = 0.0
    for steps in track(grid, description=f"eigenvalues up to {largest:g}", console=Console(stderr=True)):
        path = exact_for_path(tasks, lr, steps)
        for name, estimator in estimators().items():
            found = meta_gradients(tasks, estimator, lr, steps)
            if name == "Explicit":
                apart = max(apart, relative_error(found, path).max())
            error = relative_error(found, wanted)
            low, middle, high = np.quantile(error, [0.1, 0.5, 0.9])
            spread = {"mean": error.mean(), "low": low, "median": middle, "high": high}
            rows.append({"largest": largest, "estimator": name, "steps": steps, **spread})
    print(
        f"\neigenvalues of A from {largest / KAPPA:g} to {largest:g}: "
        f"kappa(A + prox I) = {condition(largest):.1f}, lr = {lr:.4f}"
    )
    print(f"Explicit and the dense derivative of the path differ by at most {apart:.1e}, at every K")
    summary(rows, grid)
    return rows


def condition(largest: float) -> float:
    """The condition number of what is inverted, and of what gradient descent descends."""
    return (largest + PROX) / (largest / KAPPA + PROX)


def summary(rows: list[dict[str, Any]], grid: list[int]) -> None:
    """Print, for every line, how far it comes and how soon."""
    levels = (1e-1, 1e-2, 1e-3, 1e-6)
    heads = "".join(f"{f'< {x:g}':>9}" for x in levels)
    print(f"{'mean relative error':20}{f'at K = {grid[-1]}':>12}    first K of the grid where it is{heads}")
    for name in estimators():
        own = [row for row in rows if row["estimator"] == name]
        first = [next((row["steps"] for row in own if row["mean"] < level), "never") for level in levels]
        print(f"{name:20}{own[-1]['mean']:>12.1e}    {'':31}" + "".join(f"{x!s:>9}" for x in first))


def write(rows: list[dict[str, Any]], out: Path) -> None:
    """Write the figures behind the plot."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "imaml_fig2a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"\nwrote {out / 'imaml_fig2a.csv'}")


def chart(rows: list[dict[str, Any]], path: Path, tasks: int) -> None:
    """Draw error against steps, a panel for each spectrum: the mean over the tasks, and their middle 80 %."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    scales = list(dict.fromkeys(row["largest"] for row in rows))
    figure, axes = plt.subplots(1, len(scales), figsize=(6.2 * len(scales), 4.8), sharey=True, squeeze=False)
    for axis, largest in zip(axes[0], scales, strict=True):
        for name, colour in COLOURS.items():
            own = rows_of(rows, largest, name)
            steps, low, mean, high = ([row[key] for row in own] for key in ("steps", "low", "mean", "high"))
            axis.plot(steps, mean, "o-", color=colour, linewidth=1.8, markersize=3.5)
            axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        place_names(axis, {n: rows_of(rows, largest, n)[-1] for n in COLOURS})
        title = f"eigenvalues of A: {largest / KAPPA:g} to {largest:g};  "
        axis.set_title(f"{title}kappa(A + prox I) = {condition(largest):.1f}", fontsize=10, loc="left")
        axis.set(xscale="log", yscale="log", xlabel="inner gradient steps K")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(linewidth=0.3)
    axes[0][0].set_ylabel("relative error against the meta-gradient of the solution")
    figure.tight_layout()
    figure.text(
        0.5, 0, f"mean over {tasks} tasks; the band holds the middle 80 % of them", ha="center", va="top"
    )
    figure.savefig(path, dpi=160, bbox_inches="tight")
    print(f"wrote {path}")


def rows_of(rows: list[dict[str, Any]], largest: float, name: str) -> list[dict[str, Any]]:
    """The points of one line."""
    return [row for row in rows if (row["largest"], row["estimator"]) == (largest, name)]


def place_names(axis: Any, ends: dict[str, dict[str, Any]]) -> None:
    """Write every line's name beside its last point, higher where it would cover the name below."""
    floor = 0.0
    for name, end in sorted(ends.items(), key=lambda item: item[1]["mean"]):
        height = max(end["mean"], floor)
        axis.annotate(
            name,
            (end["steps"] * 1.12, height),
            color=COLOURS[name],
            va="center",
            fontsize=9,
            annotation_clip=False,
        )
        floor = 8 * height


def main() -> None:
    """Read the command line, run, and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--max-steps", type=int, default=320, help="the largest K")
    parser.add_argument(
        "--points", type=int, default=26, help="how many values of K, spaced as a geometric series"
    )
    parser.add_argument(
        "--largest", type=float, nargs="+", default=[50.0, 1.0], help="largest eigenvalues of A, a panel each"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="3 tasks and 5 values of K, in seconds")
    parser.add_argument("--out", type=Path, default=Path("runs/papers"))
    options = parser.parse_args()
    if options.quick:
        options.tasks, options.points = 3, 5

    torch.set_num_threads(1)  # matrices of 50 rows gain nothing from more
    print(
        f"d = {DIM}, kappa(A) = {KAPPA:g}, prox = {PROX:g}, lr = 1 / (largest eigenvalue + prox), "
        f"{options.tasks} tasks, float64"
    )
    rows = [row for largest in options.largest for row in errors_at(largest, options)]
    write(rows, options.out)
    chart(rows, options.out / "imaml_fig2a.png", options.tasks)


if __name__ == "__main__":
    main()
