"""What an implicit estimator's linear solver saves by starting from the adjoint of the meta-step before.

Two kinds of outer problem. In hyperparameter optimisation the inner problem is the same in every meta-step but for a
small change of theta: here one weight decay for each parameter of a logistic regression. In few-shot learning every
meta-step brings new tasks, so that the last adjoint is that of another task. Counted are the steps of CG until its
relative residual is below ``rtol``, from zero and from the last adjoint, over the same sequence of meta-parameters.

    python examples/benchmarks/warm_start.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from report import Row, machine, print_table, write_csv
from rich.console import Console
from rich.progress import track
from torch import Tensor

import metafunc as mf
from metafunc import tree

D, N = 40, 100


def logistic(phi: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The logistic loss, with labels of +1 and -1."""
    x, y = batch
    return F.softplus(-y * (x @ phi)).mean()


def draw(chance: torch.Generator) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Support and query of a task: inputs of unequal scales, and labels with some noise."""
    scales = torch.logspace(-0.5, 0.5, D, dtype=torch.float64)
    x = torch.randn(2, N, D, generator=chance, dtype=torch.float64) * scales
    truth = torch.randn(D, generator=chance, dtype=torch.float64) / scales
    y = torch.sign(x @ truth + torch.randn(2, N, generator=chance, dtype=torch.float64))
    return (x[0], y[0]), (x[1], y[1])


def weight_decay(rtol: float) -> tuple[mf.Adapt, Any]:
    """theta is the logarithm of a weight decay for each parameter."""
    inner = mf.newton_cg(
        logistic, steps=20, solver=mf.CG(30), weight_decay=torch.exp, init=torch.zeros_like, tolerance=1e-9
    )
    return mf.Implicit(mf.CG(max_steps=200, rtol=rtol))(inner), torch.full((D,), -4.0, dtype=torch.float64)


def initialisation(rtol: float) -> tuple[mf.Adapt, Any]:
    """theta is where the inner problem is tied to."""
    inner = mf.newton_cg(logistic, steps=20, solver=mf.CG(30), prox=0.02, tolerance=1e-9)
    return mf.Implicit(mf.CG(max_steps=200, rtol=rtol))(inner), torch.zeros(D, dtype=torch.float64)


def steps_of(
    make: Callable[[float], tuple[mf.Adapt, Any]], rtol: float, meta_steps: int, seed: int, new_tasks: bool
) -> tuple[float, float]:
    """Mean steps of CG in a meta-step after the first, cold and warm."""
    chance = torch.Generator().manual_seed(seed)
    adapt, start = make(rtol)
    theta = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=0.03)
    meta_grad = mf.meta_grad(logistic, adapt)
    cold: list[float] = []
    warm: list[float] = []
    support, query = draw(chance)
    adjoint: Any = None
    for _ in track(range(meta_steps), f"rtol {rtol:g}", console=Console(stderr=True), transient=True):
        if new_tasks:
            support, query = draw(chance)
        at = theta.detach()
        result = mf.check(meta_grad(at, support, query), linear_residual=2 * rtol)
        if adjoint is not None:
            again = mf.check(meta_grad(at, support, query, guess=adjoint), linear_residual=2 * rtol)
            cold.append(float(result.stats["linear_steps"]))
            warm.append(float(again.stats["linear_steps"]))
        adjoint = tree.map(torch.clone, result.adjoint)
        theta.grad = result.grad
        optimizer.step()
    return sum(cold) / len(cold), sum(warm) / len(warm)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few meta-steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where the table goes")
    options = parser.parse_args()
    meta_steps = 3 if options.quick else 30
    print(machine())
    rows: list[Row] = []
    for title, make, new_tasks in (
        ("weight decay, the same task", weight_decay, False),
        ("initialisation, the same task", initialisation, False),
        ("initialisation, new tasks", initialisation, True),
    ):
        for rtol in (1e-2, 1e-4, 1e-8):
            cold, warm = steps_of(make, rtol, meta_steps, options.seed, new_tasks)
            rows.append(
                {
                    "outer problem": title,
                    "rtol": f"{rtol:g}",
                    "CG steps, cold": f"{cold:.1f}",
                    "warm": f"{warm:.1f}",
                    "saved": f"{100 * (1 - (warm + 1) / cold):.0f} %",  # a start costs a product of its own
                }
            )
    print_table(
        f"Steps of CG over {meta_steps} meta-steps (the start's own product is counted as saved less)", rows
    )
    write_csv(options.out / "warm_start.csv", rows)


if __name__ == "__main__":
    main()
