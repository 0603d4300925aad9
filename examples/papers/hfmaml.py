"""How near to a stationary point MAML, FO-MAML and HF-MAML come: Theorems 4.12, 4.15 and 4.17 of hf-maml.

The paper has no experiment; this is one for its theorems. The tasks are robust regressions, ``f_i(w) = mean_k
log cosh(x_ik^T w - y_ik)`` with ``y_ik = x_ik^T w_i`` and ``w_i = spread * z_i``. Gradients, Hessians and third
derivatives are bounded, with ``L = max_i lambda_max(mean_k x x^T)``, which is scaled to 1, and
``rho = 4 / (3 sqrt 3) max_i mean_k ||x||^3``. Every task has inputs of its own, so that the Hessians differ between
tasks however near to each other their solutions are.

All tasks and points are used in every step, so that what a method stalls at is the bias of its meta-gradient: none for
MAML, ``O(alpha sigma)`` for FO-MAML by (26), and by (28) none for HF-MAML. ``||grad F||`` is computed by dense algebra.

Steps are those of (16)-(17), by ``metafunc.optim.SmoothnessAdaptiveGD``. HF-MAML runs twice: with the displacement of
Theorem 4.17, ``delta_k ||g|| = 1 / (6 rho alpha)``, and with that of ``mf.CentralDifference()``,
``eps^(1/3) (1 + ||w||)``. sigma is the root mean square of ``||grad f_i - grad f||`` over the tasks, where a method
ends; the bound of Assumption 4.5 over all w is larger.

    python examples/papers/hfmaml.py
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from report import Row, Run, name_ends, print_table, save, slope, verdict, write_csv
from torch import Tensor
from torch.func import grad, vmap

import metafunc as mf
from metafunc.optim import SmoothnessAdaptiveGD, gradient_norms

DIM, TASKS, POINTS, ALPHA = 3, 12, 12, 0.1
"""The inner step size: 1 / (10 L) is the largest that Theorem 4.15 allows."""
COLOURS = {"FO-MAML": "#d55e00", "HF-MAML, Theorem 4.17": "#009e73", "HF-MAML": "#0072b2", "MAML": "#000000"}
CONSTANTS = {"FO-MAML": 18, "HF-MAML, Theorem 4.17": 25, "HF-MAML": 25, "MAML": 12}
"""beta_k is beta~(w_k) over these, in the three theorems."""
LONGER = 0.25
"""The same where only the end matters, which does not depend on the step size: 48 to 100 times as long a step."""


@dataclass(frozen=True)
class Options(Run):
    """Measure where the methods stall."""

    seeds: int = 3
    steps: int = 5000  # Outer steps of the first panel.
    floor_steps: int = 250  # Outer steps of the other panels, which are longer.


Task = tuple[Tensor, Tensor]


def draw(seeds: int, spreads: list[float]) -> tuple[Task, Tensor]:
    """Families of tasks, and where to start: [families, tasks, ...], for each seed one with every spread."""
    xs, ys, starts = [], [], []
    for seed in range(seeds):
        draws = torch.Generator().manual_seed(seed)
        x = torch.randn(TASKS, POINTS, DIM, generator=draws, dtype=torch.float64)
        x = x / torch.linalg.eigvalsh(x.mT @ x / POINTS).max().sqrt()
        w, start = torch.randn(2, TASKS, DIM, generator=draws, dtype=torch.float64)
        for spread in spreads:
            xs.append(x)
            ys.append((x @ (spread * w)[..., None])[..., 0])
            starts.append(2 * start[0])
    return (torch.stack(xs), torch.stack(ys)), torch.stack(starts)


def loss(w: Tensor, task: Task) -> Tensor:
    """The mean of log cosh of the residuals, up to log 2."""
    x, y = task
    left = x @ w - y
    return torch.logaddexp(left, -left).mean()


def slopes(w: Tensor, tasks: Task) -> Tensor:
    """The gradients of the tasks, each at its own w."""
    x, y = tasks
    return (torch.tanh((x * w[..., None, :]).sum(-1) - y)[..., None] * x).mean(-2)


def wanted(w: Tensor, tasks: Task, alpha: float) -> Tensor:
    """The gradient of F for every family, by dense algebra."""
    x, y = tasks
    here = w[:, None].expand(-1, TASKS, -1)
    bend = 1 - torch.tanh((x * here[..., None, :]).sum(-1) - y) ** 2
    hessian = (x * bend[..., None]).mT @ x / POINTS
    ahead = slopes(here - alpha * slopes(here, tasks), tasks)
    return (ahead - alpha * (hessian @ ahead[..., None])[..., 0]).mean(1)


def estimator(name: str, rho: float, alpha: float, share: float) -> mf.Estimator:
    """The method of that name, with a share of the displacement of Theorem 4.17 where it has that."""
    if name == "MAML":
        return mf.Explicit()
    if name == "FO-MAML":
        return mf.FirstOrder()
    away = share / (6 * rho * alpha) if name == "HF-MAML, Theorem 4.17" else None
    return mf.Explicit(curvature=mf.CentralDifference(displacement=away))


def descend(
    name: str,
    tasks: Task,
    start: Tensor,
    steps: int,
    alpha: float = ALPHA,
    constant: float = LONGER,
    share: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """``||grad F||`` before every step, [steps, families], and the last points."""
    rho = float(4 / (3 * 3**0.5) * (tasks[0].norm(dim=-1) ** 3).mean(-1).max())
    adapt = estimator(name, rho, alpha, share)(mf.gradient_descent(loss, lr=alpha, steps=1))
    one = vmap(grad(lambda w, task: loss(adapt(w, task), task)), in_dims=(None, 0))
    mean = vmap(lambda w, tasks: one(w, tasks).mean(0))
    norms_of = vmap(lambda w, tasks: gradient_norms(loss, w, tasks))
    params = [w.clone().requires_grad_() for w in start]
    constants = {"smoothness": 1.0, "hessian_lipschitz": rho, "inner_lr": alpha}
    optimizers = [SmoothnessAdaptiveGD([p], 1 / constant, **constants) for p in params]
    path: list[Tensor] = []
    for _ in range(steps):
        at = torch.stack([p.detach() for p in params])
        path.append(wanted(at, tasks, alpha).norm(dim=1))
        for optimizer, p, g, norms in zip(
            optimizers, params, mean(at, tasks), norms_of(at, tasks), strict=True
        ):
            p.grad = g
            optimizer.observe(norms)
            optimizer.step()
    return torch.stack(path), torch.stack([p.detach() for p in params])


def sigma(w: Tensor, tasks: Task) -> Tensor:
    """The spread of the task gradients of every family."""
    found = slopes(w[:, None].expand(-1, TASKS, -1), tasks)
    return (found - found.mean(1, keepdim=True)).norm(dim=-1).square().mean(1).sqrt()


def descents(options: Options) -> list[Row]:
    """The first panel: the methods with the constants of their theorems."""
    tasks, start = draw(options.seeds, [1.0])
    rows: list[Row] = []
    for name in COLOURS:
        constant = LONGER if options.quick else CONSTANTS[name]
        path, _ = descend(name, tasks, start, options.steps, constant=constant)
        for k in range(0, options.steps, max(1, options.steps // 100)):
            rows += [
                {"panel": "steps", "method": name, "seed": seed, "x": k, "norm": float(norm)}
                for seed, norm in enumerate(path[k])
            ]
    return rows


def floors(options: Options) -> list[Row]:
    """Where FO-MAML and HF-MAML stall, against alpha and sigma, and HF-MAML against its displacement."""
    shares = [1.0, 0.25] if options.quick else [1.0, 0.5, 0.25, 0.125, 0.0625]
    rows: list[Row] = []
    for name in ("FO-MAML", "HF-MAML, Theorem 4.17"):
        tasks, start = draw(options.seeds, [1.0])
        for share in shares:
            path, _ = descend(name, tasks, start, options.floor_steps, alpha=share * ALPHA)
            rows += [
                {"panel": "alpha", "method": name, "seed": seed, "x": share * ALPHA, "norm": float(norm)}
                for seed, norm in enumerate(path[-1])
            ]
        tasks, start = draw(options.seeds, [share / 4 for share in shares])
        path, end = descend(name, tasks, start, options.floor_steps)
        rows += [
            {"panel": "sigma", "method": name, "seed": k // len(shares), "x": float(x), "norm": float(norm)}
            for k, (x, norm) in enumerate(zip(sigma(end, tasks), path[-1], strict=True))
        ]
    name = "HF-MAML, Theorem 4.17"
    tasks, start = draw(options.seeds, [1.0])
    for share in shares[:4]:
        path, _ = descend(name, tasks, start, options.floor_steps, share=share)
        rows += [
            {"panel": "displacement", "method": name, "seed": seed, "x": share, "norm": float(norm)}
            for seed, norm in enumerate(path[-1])
        ]
    return rows


def chart(rows: list[Row], table: list[Row]) -> Figure:
    """Three panels; every line is one family of tasks."""
    figure = Figure(figsize=(16, 4.6))
    axes = figure.subplots(1, 3, gridspec_kw={"wspace": 0.9})
    labels = ("outer steps", r"inner step size $\alpha$", r"spread of the task gradients $\sigma$")
    for axis, panel, label in zip(axes, ("steps", "alpha", "sigma"), labels, strict=True):
        axis.set(yscale="log", xlabel=label, xscale="linear" if panel == "steps" else "log")
        ends: dict[str, tuple[float, float]] = {}
        colours: dict[str, str] = {}
        for name in dict.fromkeys(row["method"] for row in rows if row["panel"] == panel):
            lines = of_families(rows, panel, name)
            for x, y in lines:
                style = {"color": COLOURS[name], "markersize": 3, "linewidth": 1.4}
                style["linestyle"] = (0, (4, 4)) if name == "MAML" else "-"  # HF-MAML is under it
                axis.plot(x, y, marker=None if panel == "steps" else "o", **style)
            found = [
                f": slope {r['slope']:.2f}" for r in table if (r["method"], r["against"]) == (name, panel)
            ]
            text = name.replace("Theorem", "Thm") + "".join(found)
            last = [max(zip(x, y, strict=True)) for x, y in lines]
            ends[text] = (max(x for x, _ in last), float(np.exp(np.mean([np.log(y) for _, y in last]))))
            colours[text] = COLOURS[name]
        name_ends(axis, ends, colours)
        axis.tick_params(axis="x", which="minor", labelbottom=False)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(linewidth=0.3)
    axes[0].set_ylabel(r"$\|\nabla F(w)\|$")
    axes[1].set_ylabel(r"$\|\nabla F(w)\|$ where the method stalls")
    return figure


def of_families(rows: list[Row], panel: str, name: str) -> list[tuple[list[float], list[float]]]:
    """The lines of one method, one a family."""
    own = [row for row in rows if (row["panel"], row["method"]) == (panel, name)]
    seeds = dict.fromkeys(row["seed"] for row in own)
    each = [[row for row in own if row["seed"] == seed] for seed in seeds]
    return [([row["x"] for row in line], [row["norm"] for row in line]) for line in each]


def main(options: Options) -> None:
    torch.set_num_threads(1)
    if options.quick:
        options = replace(options, seeds=2, steps=90, floor_steps=70)
    rows = descents(options) + floors(options)
    table: list[Row] = []
    for name in ("FO-MAML", "HF-MAML, Theorem 4.17"):
        for panel in ("alpha", "sigma", "displacement")[: 2 if name == "FO-MAML" else 3]:
            found = [slope(x, y) for x, y in of_families(rows, panel, name)]
            spread = {"slope": float(np.mean(found)), "least": min(found), "largest": max(found)}
            table.append({"method": name, "against": panel} | spread)
    summary: list[Row] = []
    for name in COLOURS:
        path = [r for r in rows if (r["panel"], r["method"]) == ("steps", name)]
        times = sorted({r["x"] for r in path})
        before, end = (
            max(r["norm"] for r in path if r["x"] == times[share * (len(times) - 1) // 4]) for share in (3, 4)
        )
        summary.append({"method": name, "norm at 3/4 of the steps": before, "norm at the end": end})
    print_table("Slope of the norm of grad F where a method stalls, on logarithmic axes, by family", table)
    print_table(f"The largest norm of grad F of all families, in {options.steps} steps", summary)
    out = options.out / "hfmaml"
    write_csv(rows, out / "lines.csv")
    write_csv(table, out / "slopes.csv")
    write_csv(summary, out / "ends.csv")
    save(chart(rows, table), out / "hfmaml.png")
    going = {
        r["method"]: r["norm at the end"] < max(1e-10, 0.9 * r["norm at 3/4 of the steps"]) for r in summary
    }
    ends = {r["method"]: r["norm at the end"] for r in summary}
    verdict(
        {
            "MAML goes on to zero": going["MAML"],
            "FO-MAML stalls": not going["FO-MAML"],
            "HF-MAML goes on to zero, with a short displacement": going["HF-MAML"],
            "and as far with that of Theorem 4.17: at most twice the norm": ends["HF-MAML, Theorem 4.17"]
            <= 2 * ends["HF-MAML"],
            "FO-MAML stalls in proportion to alpha: slope 1 within 0.15": abs(table[0]["slope"] - 1) < 0.15,
            "and to sigma: slope 1 within 0.15": abs(table[1]["slope"] - 1) < 0.15,
            "HF-MAML stalls at the square of its displacement: slope 2 within 0.15": abs(
                table[-1]["slope"] - 2
            )
            < 0.15,
        }
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
