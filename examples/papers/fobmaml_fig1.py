"""Figure 1 of fo-b-maml: quality of the meta-gradient against inner steps, and outer loss against outer steps.

The experiment of appendix B: tasks ``f_i(phi) = phi^T A_i phi / 2 + phi^T b_i`` for support and query alike, gradient
descent as the inner and as the outer solver, everything known in closed form:

    phi_i* = (A_i + prox I)^-1 (prox theta - b_i),    grad F_i = prox (A_i + prox I)^-1 (A_i phi_i* + b_i).

What the paper's text leaves open and is chosen here: d = 20, 10 tasks, eigenvalues of A_i evenly spaced on a
logarithmic axis from 1/1000 to 1 (kappa = 1000) in random directions, b_i = -A_i w_i with w_i standard normal,
prox = 0.05, lr = 1 / (1 + prox). The quality is the relative error of the mean meta-gradient at a random theta, and
the outer loss is F(theta) - min F. Learning rates of the outer loop are tuned for each method by the loss at the end.

FO-B-MAML is (11), ``mf.FiniteDifference(nu, scheme="symmetric", recenter=False)``, and (10) twice. ``from theta``
writes Algorithm 1 down with both solves from theta, so that their errors are alike. ``warm`` is ``scheme="forward"``,
whose second solve starts where the first one stopped: the error left there is then divided by nu, which is the term
delta / nu of the paper's bound, and nu has to follow delta (``nu=None`` does that).

    python examples/papers/fobmaml_fig1.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from report import Row, Run, name_ends, print_table, save, verdict, write_csv
from torch import Tensor
from torch.func import grad, vmap

import metafunc as mf

DIM, TASKS, KAPPA, PROX, NU = 20, 10, 1000.0, 0.05, 1e-3
LR = 1 / (1 + PROX)
Task = tuple[Tensor, Tensor]
Gradient = Callable[[Tensor, Task], Tensor]

COLOURS = {
    "FO-B-MAML": "#d55e00",
    "FO-B-MAML, (10) from theta": "#e69f00",
    "FO-B-MAML, (10) warm": "#f0b98d",
    "MAML": "#000000",
    "iMAML, 2 CG": "#a6cee3",
    "iMAML, 5 CG": "#56b4e9",
    "iMAML, 10 CG": "#0072b2",
    "FO-MAML": "#009e73",
    "Reptile": "#cc79a7",
}


@dataclass(frozen=True)
class Options(Run):
    """Draw the figure."""

    seeds: int = 5  # Problems.
    max_steps: int = 160  # The largest number of inner steps.
    outer_steps: int = 60  # Steps of the outer loop,
    inner_steps: int = 20  # and the inner steps of each; 20 is the paper's number.


def draw(seeds: int) -> tuple[Tensor, Task]:
    """One ``theta`` and ``TASKS`` tasks a seed."""
    spectrum = torch.logspace(-np.log10(KAPPA), 0, DIM, dtype=torch.float64)
    thetas, matrices, vectors = [], [], []
    for seed in range(seeds):
        draws = torch.Generator().manual_seed(seed)
        turn = torch.randn(TASKS, DIM, DIM, generator=draws, dtype=torch.float64)
        turn, _ = torch.linalg.qr(turn)
        a = turn * spectrum @ turn.mT
        w = torch.randn(TASKS, DIM, generator=draws, dtype=torch.float64)
        thetas.append(3 * torch.randn(DIM, generator=draws, dtype=torch.float64))
        matrices.append(a)
        vectors.append(-(a @ w[..., None])[..., 0])
    return torch.stack(thetas), (torch.stack(matrices), torch.stack(vectors))


def loss(phi: Tensor, task: Task) -> Tensor:
    """A quadratic."""
    a, b = task
    return phi @ (a @ phi) / 2 + phi @ b


def exact(theta: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """``F_i`` and its gradient, by dense algebra."""
    a, b = task
    system = a + PROX * torch.eye(DIM, dtype=a.dtype)
    phi = torch.linalg.solve(system, PROX * theta - b)
    return loss(phi, task), PROX * torch.linalg.solve(system, a @ phi + b)


def lowest(tasks: Task) -> Tensor:
    """The least value of ``F`` for every seed: its gradient is affine in theta."""

    def mean(theta: Tensor, tasks: Task) -> tuple[Tensor, Tensor]:
        value, slope = vmap(exact, in_dims=(None, 0))(theta, tasks)
        return value.mean(0), slope.mean(0)

    def one(tasks: Task) -> Tensor:
        zero = torch.zeros(DIM, dtype=torch.float64)
        matrix = torch.func.jacrev(lambda theta: mean(theta, tasks)[1])(zero)
        return mean(torch.linalg.solve(matrix, -mean(zero, tasks)[1]), tasks)[0]

    return vmap(one)(tasks)


def from_theta(steps: int) -> Gradient:
    """Algorithm 1 of the paper with (10), where both solves start from theta."""

    def perturbed(nu: float) -> mf.Inner:
        def objective(phi: Tensor, theta: Tensor, task: Task) -> Tensor:
            return (1 + nu) * loss(phi, task) + PROX / 2 * ((phi - theta) ** 2).sum()

        return mf.gradient_descent(objective=objective, lr=LR, steps=steps)

    moved, still = perturbed(NU), perturbed(0.0)
    return lambda theta, task: -PROX * (moved(theta, task) - still(theta, task)) / NU


def methods(steps: int) -> dict[str, Gradient]:
    """The lines of the figure: the meta-gradient of one task after so many inner steps."""
    inner = mf.gradient_descent(loss, lr=LR, steps=steps, prox=PROX)
    estimators: dict[str, mf.Estimator] = {
        "FO-B-MAML": mf.FiniteDifference(nu=NU, scheme="symmetric", recenter=False),
        "FO-B-MAML, (10) warm": mf.FiniteDifference(scheme="forward", recenter=False),
        "MAML": mf.Explicit(),
        **{f"iMAML, {n} CG": mf.Implicit(mf.CG(max_steps=n, rtol=0.0)) for n in (2, 5, 10)},
        "FO-MAML": mf.FirstOrder(),
        "Reptile": mf.Reptile(),
    }

    def gradient_of(adapt: mf.Adapt) -> Gradient:
        return grad(lambda theta, task: loss(adapt(theta, task), task))

    found = {name: gradient_of(estimator(inner)) for name, estimator in estimators.items()}
    return {name: found.get(name) or from_theta(steps) for name in COLOURS}


def mean_gradient(method: Gradient) -> Callable[[Tensor, Task], Tensor]:
    """The mean over the tasks, for all seeds at once."""
    return vmap(lambda theta, tasks: vmap(method, in_dims=(None, 0))(theta, tasks).mean(0))


def quality(options: Options) -> list[Row]:
    """The left panel: the relative error at each number of inner steps."""
    theta, tasks = draw(options.seeds)
    wanted = mean_gradient(lambda theta, task: exact(theta, task)[1])(theta, tasks)
    rows: list[Row] = []
    for steps in sorted({round(k) for k in np.geomspace(1, options.max_steps, 4 if options.quick else 16)}):
        for name, method in methods(steps).items():
            found = mean_gradient(method)(theta, tasks)
            error = (found - wanted).norm(dim=1) / wanted.norm(dim=1)
            rows.append({"panel": "quality", "method": name, "x": steps} | spread(error))
    return rows


def descend(options: Options) -> list[Row]:
    """The right panel: the outer loss along gradient descent, each method with its best learning rate."""
    theta, tasks = draw(options.seeds)
    rates = torch.logspace(-1.5, 3, 7 if options.quick else 13, dtype=torch.float64)
    at, data = theta.repeat(len(rates), 1), tuple(x.repeat(len(rates), *[1] * (x.ndim - 1)) for x in tasks)
    lr, floor = rates.repeat_interleave(options.seeds)[:, None], lowest(tasks)
    value_of = vmap(lambda theta, tasks: vmap(exact, in_dims=(None, 0))(theta, tasks)[0].mean(0))
    rows: list[Row] = []
    for name, method in methods(options.inner_steps).items():
        now, losses = at, []
        step = mean_gradient(method)
        for _ in range(options.outer_steps + 1):
            losses.append(value_of(now, data).reshape(len(rates), -1) - floor)
            now = now - lr * step(now, data)
        path = torch.stack(losses).nan_to_num(torch.inf)  # [steps, rates, seeds]
        best = int(path[-1].mean(1).argmin())
        rows += [
            {"panel": "loss", "method": name, "x": k, "lr": float(rates[best])} | spread(path[k, best])
            for k in range(options.outer_steps + 1)
        ]
    return rows


def limits(options: Options) -> list[Row]:
    """The outer loss where a method's mean meta-gradient vanishes, which is where its descent ends."""
    theta, tasks = draw(options.seeds)
    value_of = vmap(lambda theta, tasks: vmap(exact, in_dims=(None, 0))(theta, tasks)[0].mean(0))
    step = 1e-4 * torch.eye(DIM, dtype=torch.float64)
    rows: list[Row] = []
    for steps in (options.inner_steps,) if options.quick else (20, 40, 60):
        for name in ("FO-B-MAML", "iMAML, 5 CG"):
            slope_at, at = mean_gradient(methods(steps)[name]), theta
            for _ in range(4):  # Newton's method; the gradients are affine, but for what CG leaves
                columns = [(slope_at(at + e, tasks) - slope_at(at - e, tasks)) / 2e-4 for e in step]
                at = at - torch.linalg.solve(torch.stack(columns, -1), slope_at(at, tasks))
            rows.append({"method": name, "inner steps": steps} | spread(value_of(at, tasks) - lowest(tasks)))
    return rows


def spread(x: Tensor) -> Row:
    """Mean and range over the seeds."""
    return {"mean": float(x.mean()), "low": float(x.min()), "high": float(x.max())}


def chart(rows: list[Row], inner_steps: int) -> Figure:
    """Both panels, every line with its name at its end."""
    figure = Figure(figsize=(13.5, 5.0))
    for axis, panel in zip(
        figure.subplots(1, 2, gridspec_kw={"wspace": 0.65}), ("quality", "loss"), strict=True
    ):
        ends: dict[str, tuple[float, float]] = {}
        for name, colour in COLOURS.items():
            own = [row for row in rows if (row["panel"], row["method"]) == (panel, name)]
            x, mean, low, high = ([row[key] for row in own] for key in ("x", "mean", "low", "high"))
            marker = "o-" if panel == "quality" else "-"
            axis.plot(x, mean, marker, color=colour, markersize=3, linewidth=1.8)
            axis.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
            ends[name] = (x[-1], mean[-1])
        axis.set(yscale="log", xscale="log" if panel == "quality" else "linear")
        name_ends(axis, ends, COLOURS)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(linewidth=0.3)
    left, right = figure.axes
    left.set(xlabel="inner gradient steps", ylabel="relative error of the meta-gradient")
    right.set(
        xlabel=f"outer gradient steps ({inner_steps} inner steps each)", ylabel="outer loss above its minimum"
    )
    figure.text(0.5, -0.02, "means over the problems; bands from the least to the largest", ha="center")
    return figure


def main(options: Options) -> None:
    torch.set_num_threads(1)
    if options.quick:
        options = replace(options, seeds=2, max_steps=80, outer_steps=10)
    rows = quality(options) + descend(options)
    errors = {n: [r for r in rows if (r["panel"], r["method"]) == ("quality", n)] for n in COLOURS}
    losses = {n: [r for r in rows if (r["panel"], r["method"]) == ("loss", n)][-1] for n in COLOURS}
    near = min(errors["MAML"], key=lambda row: abs(row["x"] - options.inner_steps))["x"]
    table: list[Row] = []
    for name in COLOURS:
        at_near = next(row["mean"] for row in errors[name] if row["x"] == near)
        table.append(
            {
                "method": name,
                f"error, {near} steps": at_near,
                f"error, {errors[name][-1]['x']} steps": errors[name][-1]["mean"],
                "lr": losses[name]["lr"],
                f"loss, {options.outer_steps} outer": losses[name]["mean"],
            }
        )
    print_table(f"Means over {options.seeds} problems", table)
    ends = limits(options)
    print_table("Outer loss above its minimum where the mean meta-gradient vanishes", ends)
    out = options.out / "fobmaml_fig1"
    write_csv(rows, out / "lines.csv")
    write_csv(table, out / "summary.csv")
    write_csv(ends, out / "limits.csv")
    save(chart(rows, options.inner_steps), out / "fobmaml_fig1.png")
    last, ours = {n: e[-1]["mean"] for n, e in errors.items()}, [e["mean"] for e in errors["FO-B-MAML"]]
    at_end = {n: row["mean"] for n, row in losses.items()}
    verdict(
        {
            "the error of FO-B-MAML falls with every added inner step": ours == sorted(ours, reverse=True),
            "those of FO-MAML and Reptile stay above 10 %": min(last["FO-MAML"], last["Reptile"]) > 0.1,
            "its error ends below those of iMAML with 2 and 5 CG steps": last["FO-B-MAML"]
            < min(last["iMAML, 2 CG"], last["iMAML, 5 CG"]),
            "its outer loss ends below those of FO-MAML and Reptile": at_end["FO-B-MAML"]
            < min(at_end["FO-MAML"], at_end["Reptile"]),
            "its outer loss ends below those of iMAML with 2 and 5 CG steps": at_end["FO-B-MAML"]
            < min(at_end["iMAML, 2 CG"], at_end["iMAML, 5 CG"]),
        }
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
