"""The bias of FO-B-MAML against nu and delta: Table 1, (12) and (14) of fo-b-maml as slopes.

A difference of order n of solutions of accuracy delta is off by O(nu^n + delta / nu), hence by O(delta^(n/(n+1))) at
the best nu. A derivative in nu in place of the difference (the paper's section 6) leaves O(delta).

The problem: logistic regression with a proximal term, for on quadratics the differences of ``mf.FiniteDifference`` have
no error in nu. What the paper leaves open and is chosen here: d = 4, 20 points, prox = 1.

(13) says no more of an inner solution than that it is within delta, and the bound is for the worst such. The solver
here returns the solution moved by exactly delta in a direction that is another one for each problem it is given. (The
errors of two runs of gradient descent are alike, and cancel in a symmetric difference: nothing is left to measure.) For
the tangent scheme the solver is gradient descent itself, and delta what K steps leave.

    python examples/papers/fobmaml_bias.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from matplotlib.figure import Figure
from report import Row, Run, name_ends, print_table, save, slope, verdict, write_csv
from torch import Tensor
from torch.func import grad, hessian, vmap

import metafunc as mf

DIM, POINTS, PROX, LR = 4, 20, 1.0, 0.5
SCHEMES: dict[str, tuple[Any, int]] = {
    "forward, n = 1": (partial(mf.FiniteDifference, scheme="forward"), 1),
    "symmetric, n = 2": (partial(mf.FiniteDifference, scheme="symmetric"), 2),
    "forward, n = 3": (partial(mf.FiniteDifference, scheme="forward", order=3), 3),
    "symmetric, n = 4": (partial(mf.FiniteDifference, scheme="symmetric", order=4), 4),
}
COLOURS = dict(
    zip([*SCHEMES, "tangent"], ("#d55e00", "#0072b2", "#cc79a7", "#009e73", "#000000"), strict=True)
)


@dataclass(frozen=True)
class Options(Run):
    """Measure the slopes."""

    seeds: int = 10


@dataclass(frozen=True)
class Problem:
    """Tasks, stacked, with the solutions and the meta-gradients that are wanted."""

    theta: Tensor
    support: tuple[Tensor, Tensor]
    query: tuple[Tensor, Tensor]
    phi: Tensor
    wanted: Tensor


def loss(phi: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Logistic regression."""
    x, y = batch
    return F.softplus(-y * (x @ phi)).mean()


def newton(fn: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The minimum of a function that is well enough convex, to the last digits."""
    for _ in range(6):
        start = start - torch.linalg.solve(hessian(fn)(start), grad(fn)(start))
    return start


def accurate_to(delta: float, inner: mf.Inner, start: Tensor, args: Any) -> Tensor:
    """The solution, moved by delta in a direction that the digits of the solution give."""
    phi = newton(lambda p: inner.objective(p, args), start)
    away = torch.sin(1e9 * phi)
    return phi + delta * away / away.norm()


def draw(tasks: int) -> Problem:
    """Tasks with a separating direction each, and noise in the labels."""
    draws = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    theta, direction = normal(tasks, DIM), 2 * normal(tasks, DIM, 1)

    def batch() -> tuple[Tensor, Tensor]:
        x = normal(tasks, POINTS, DIM)
        return x, ((x @ direction)[..., 0] + normal(tasks, POINTS)).sign()

    def one(theta: Tensor, support: Any, query: Any) -> tuple[Tensor, Tensor]:
        phi = newton(lambda p: loss(p, support) + PROX / 2 * ((p - theta) ** 2).sum(), theta)
        system = hessian(loss)(phi, support) + PROX * torch.eye(DIM, dtype=phi.dtype)
        return phi, PROX * torch.linalg.solve(system, grad(loss)(phi, query))

    support, query = batch(), batch()
    return Problem(theta, support, query, *vmap(one)(theta, support, query))


def bias(problem: Problem, estimator: mf.Estimator, inner: mf.Inner) -> tuple[float, float, float]:
    """The error of the meta-gradient, its geometric mean and range over the tasks."""
    adapt = estimator(inner)
    found = vmap(grad(lambda theta, s, q: loss(adapt(theta, s), q)))(
        problem.theta, problem.support, problem.query
    )
    error = (found - problem.wanted).norm(dim=1)
    return float(error.log().mean().exp()), float(error.min()), float(error.max())


def against_nu(problem: Problem, options: Options) -> list[Row]:
    """With the exact solution: (12)."""
    inner = replace(mf.newton_cg(loss, prox=PROX), minimize=partial(accurate_to, 0.0))
    rows: list[Row] = []
    for name, (make, order) in SCHEMES.items():
        for nu in np.geomspace(0.01, 0.2, 3 if options.quick else 9):
            mean, low, high = bias(problem, make(nu=float(nu), recenter=False), inner)
            rows.append(
                {
                    "panel": "nu",
                    "scheme": name,
                    "order": order,
                    "x": nu,
                    "bias": mean,
                    "low": low,
                    "high": high,
                }
            )
    return rows


def against_delta(problem: Problem, options: Options) -> list[Row]:
    """At the best nu for each delta: (14) and Table 1."""
    rows: list[Row] = []
    nus = np.geomspace(1e-4, 1, 10 if options.quick else 14)
    for delta in np.geomspace(1e-9, 1e-5, 2 if options.quick else 5):
        inner = replace(mf.newton_cg(loss, prox=PROX), minimize=partial(accurate_to, float(delta)))
        for name, (make, order) in SCHEMES.items():
            tried = [(*bias(problem, make(nu=float(nu), recenter=False), inner), nu) for nu in nus]
            mean, low, high, nu = min(tried)
            rows.append(
                {"panel": "delta", "scheme": name, "order": order, "x": delta}
                | {"bias": mean, "low": low, "high": high, "best nu": nu}
            )
    return rows + of_tangent(problem, options)


def of_tangent(problem: Problem, options: Options) -> list[Row]:
    """The derivative of K steps of gradient descent in nu, from where K steps have come."""
    rows: list[Row] = []
    for steps in range(13, 26, 6 if options.quick else 2):
        inner = mf.gradient_descent(loss, lr=LR, steps=steps, prox=PROX)
        left = vmap(inner)(problem.theta, problem.support) - problem.phi
        mean, low, high = bias(problem, mf.FiniteDifference(scheme="tangent"), inner)
        delta = float(left.norm(dim=1).log().mean().exp())
        rows.append(
            {"panel": "delta", "scheme": "tangent", "x": delta, "bias": mean, "low": low, "high": high}
        )
    return rows


def chart(rows: list[Row], table: list[Row]) -> Figure:
    """A panel for each of nu and delta; every line carries its name and slope."""
    figure = Figure(figsize=(13.5, 5.0))
    axes = figure.subplots(1, 2, gridspec_kw={"wspace": 0.6})
    labels = (r"perturbation $\nu$, exact inner solutions", r"inner accuracy $\delta$, at the best $\nu$")
    for axis, panel, label in zip(axes, ("nu", "delta"), labels, strict=True):
        axis.set(xscale="log", yscale="log", xlabel=label)
        ends: dict[str, tuple[float, float]] = {}
        colours: dict[str, str] = {}
        for line in (row for row in table if row["against"] == panel):
            own = [row for row in rows if (row["panel"], row["scheme"]) == (panel, line["scheme"])]
            x, y, low, high = ([row[key] for row in own] for key in ("x", "bias", "low", "high"))
            colour = COLOURS[line["scheme"]]
            axis.plot(x, y, "o-", color=colour, markersize=4)
            axis.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
            text = f"{line['scheme']}: slope {line['slope']:.2f}"
            ends[text], colours[text] = max(zip(x, y, strict=True)), colour
        name_ends(axis, ends, colours)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(linewidth=0.3)
    axes[0].set_ylabel("norm of the error of the meta-gradient")
    figure.text(0.5, -0.02, "geometric mean over the tasks; bands from the least to the largest", ha="center")
    return figure


def main(options: Options) -> None:
    torch.set_num_threads(1)
    problem = draw(3 if options.quick else options.seeds)
    rows = against_nu(problem, options) + against_delta(problem, options)
    table: list[Row] = []
    for panel, names in (("nu", list(SCHEMES)), ("delta", [*SCHEMES, "tangent"])):
        for name in names:
            own = [row for row in rows if (row["panel"], row["scheme"]) == (panel, name)]
            order = SCHEMES[name][1] if name in SCHEMES else 0
            predicted = 1.0 if not order else float(order) if panel == "nu" else order / (order + 1)
            found = slope([row["x"] for row in own], [row["bias"] for row in own])
            table.append({"scheme": name, "against": panel, "predicted": predicted, "slope": found})
    print_table("Slopes of the bias of the meta-gradient, on logarithmic axes", table)
    out = options.out / "fobmaml_bias"
    write_csv(rows, out / "bias.csv")
    write_csv(table, out / "slopes.csv")
    save(chart(rows, table), out / "fobmaml_bias.png")
    verdict(
        {
            f"{row['scheme']}, against {row['against']}: slope {row['predicted']:.3g} within 0.15": abs(
                row["slope"] - row["predicted"]
            )
            < 0.15
            for row in table
        }
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
