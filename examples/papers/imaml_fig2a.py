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

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from numpy.typing import NDArray
from report import Row, Run, name_ends, print_table, save, verdict, write_csv
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
class Options(Run):
    """Measure the errors of meta-gradients."""

    tasks: int = 20
    max_steps: int = 320  # The largest K.
    points: int = 26  # Values of K, spaced as a geometric series.
    largest: tuple[float, ...] = (50.0, 1.0)  # Largest eigenvalues of A, a panel each.
    seed: int = 0


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


def errors_at(largest: float, options: Options) -> list[Row]:
    """The rows of one panel."""
    tasks = draw(options.tasks, largest, options.seed)
    lr = 1 / (largest + PROX)
    wanted = exact_for_solution(tasks)
    grid = sorted({round(k) for k in np.geomspace(1, options.max_steps, options.points)})
    rows: list[Row] = []
    apart = 0.0
    for steps in track(grid, description=f"eigenvalues up to {largest:g}"):
        path = exact_for_path(tasks, lr, steps)
        for name, estimator in estimators().items():
            found = meta_gradients(tasks, estimator, lr, steps)
            if name == "Explicit":
                apart = max(apart, relative_error(found, path).max())
            error = relative_error(found, wanted)
            low, middle, high = np.quantile(error, [0.1, 0.5, 0.9])
            spread = {"mean": float(error.mean()), "low": low, "median": middle, "high": high}
            rows.append({"largest": largest, "estimator": name, "steps": steps, **spread})
    print(f"Explicit and the dense derivative of the path differ by at most {apart:.1e}, at every K")
    return rows


def condition(largest: float) -> float:
    """The condition number of what is inverted, and of what gradient descent descends."""
    return (largest + PROX) / (largest / KAPPA + PROX)


def summary(rows: list[Row], largest: float) -> list[Row]:
    """How far each line comes, and how soon."""
    table: list[Row] = []
    for name in COLOURS:
        own = rows_of(rows, largest, name)
        row: Row = {
            "eigenvalues up to": largest,
            "estimator": name,
            f"at K = {own[-1]['steps']}": own[-1]["mean"],
        }
        for level in (1e-1, 1e-2, 1e-3, 1e-6):
            first = next((point["steps"] for point in own if point["mean"] < level), "never")
            row[f"first K below {level:g}"] = first
        table.append(row)
    return table


def chart(rows: list[Row], tasks: int) -> Figure:
    """Error against steps, a panel for each spectrum: the mean over the tasks, and their middle 80 %."""
    scales = list(dict.fromkeys(row["largest"] for row in rows))
    figure = Figure(figsize=(6.6 * len(scales), 4.8))
    panels = figure.subplots(1, len(scales), sharey=True, squeeze=False, gridspec_kw={"wspace": 0.35})[0]
    for axis, largest in zip(panels, scales, strict=True):
        for name, colour in COLOURS.items():
            own = rows_of(rows, largest, name)
            steps, low, mean, high = ([row[key] for row in own] for key in ("steps", "low", "mean", "high"))
            axis.plot(steps, mean, "o-", color=colour, linewidth=1.8, markersize=3.5)
            axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        title = f"eigenvalues of A: {largest / KAPPA:g} to {largest:g};  "
        axis.set_title(f"{title}kappa(A + prox I) = {condition(largest):.1f}", fontsize=10, loc="left")
        axis.set(xscale="log", yscale="log", xlabel="inner gradient steps K")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(linewidth=0.3)
    for axis, largest in zip(panels, scales, strict=True):
        ends = {name: rows_of(rows, largest, name)[-1] for name in COLOURS}
        name_ends(axis, {name: (end["steps"], end["mean"]) for name, end in ends.items()}, COLOURS)
    panels[0].set_ylabel("relative error against the meta-gradient of the solution")
    text = f"mean over {tasks} tasks; the band holds the middle 80 % of them"
    figure.text(0.5, 0, text, ha="center", va="top")
    return figure


def rows_of(rows: list[Row], largest: float, name: str) -> list[Row]:
    """The points of one line."""
    return [row for row in rows if (row["largest"], row["estimator"]) == (largest, name)]


def main(options: Options) -> None:
    torch.set_num_threads(1)  # matrices of 50 rows gain nothing from more
    if options.quick:
        options = replace(options, tasks=3, points=5)
    rows = [row for largest in options.largest for row in errors_at(largest, options)]
    table = [row for largest in options.largest for row in summary(rows, largest)]
    print_table("Mean relative errors, and the first K of the grid where they are below a level", table)
    out = options.out / "imaml_fig2a"
    write_csv(rows, out / "lines.csv")
    write_csv(table, out / "summary.csv")
    save(chart(rows, options.tasks), out / "imaml_fig2a.png")
    claims: dict[str, bool] = {}
    for largest in options.largest:
        of = {name: rows_of(rows, largest, name)[-1]["mean"] for name in COLOURS}
        claims[f"up to {largest:g}: 2 CG steps leave an error below 10 %"] = of["Implicit, 2 CG"] < 0.1
        claims[f"up to {largest:g}: 5 CG steps leave one below 1e-6"] = of["Implicit, 5 CG"] < 1e-6
        within = "first K below 0.01"
        own = {row["estimator"]: row[within] for row in table if row["eigenvalues up to"] == largest}
        claims[f"up to {largest:g}: Explicit needs twice the steps of Implicit with 20 CG to 1 %"] = (
            own["Explicit"] >= 2 * own["Implicit, 20 CG"]
        )
    verdict(claims)


if __name__ == "__main__":
    main(tyro.cli(Options))
