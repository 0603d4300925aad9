"""What inner solvers spend to solve the inner problem: gradient descent, Nesterov, Adam, L-BFGS and Newton-CG.

Three problems: the linear regression of iMAML's appendix F.1 (d = 50, condition number 50, prox 5), and a conv net on
one 5-way 5-shot task with prox 2, as in its Omniglot experiments, once with ReLU and max pooling and once with softplus
and mean pooling, without kinks. Every solver goes on until the norm of the inner
gradient is 1e-6 of that at the start, or until it has spent its allowance, and a layer in the network counts the passes
forward, the gradients (a pass forward and one back), and the Hessian-vector products. Each solver gets the best of the
learning rates tried.

    python examples/benchmarks/inner_solvers.py
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from problems import Count, Params, Problem, Tally, pictures
from report import Row, machine, print_table, write_csv
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

import metafunc as mf

GOAL = 1e-6
DIM, KAPPA = 50, 50.0


class Contest(NamedTuple):
    """A problem, its proximal weight, and the learning rates to try."""

    problem: Problem
    prox: float
    rates: tuple[float, ...]
    steps: int


def regression(seed: int) -> Contest:
    """iMAML F.1: eigenvalues evenly spaced from 1 to 50, prox 5."""
    torch.manual_seed(seed)
    spectrum = torch.linspace(1, KAPPA, DIM, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(DIM, DIM, dtype=torch.float64))[0]
    rows = torch.linalg.qr(torch.randn(100, DIM, dtype=torch.float64))[0]
    x = 10 * (rows * spectrum.sqrt()) @ basis.T
    y = x @ torch.randn(DIM, 1, dtype=torch.float64) + 0.1 * torch.randn(100, 1, dtype=torch.float64)
    net = nn.Sequential(nn.Linear(DIM, 1, bias=False), Tally()).double()
    batch = x[None], y[None]
    problem = Problem("regression, F.1", net, half_square, batch, batch, 0, 0.0)
    return Contest(problem, 5.0, (2 / (KAPPA + 1 + 10), 1 / (KAPPA + 5)), 1000)


def half_square(found: Tensor, y: Tensor) -> Tensor:
    """Half the mean squared error, whose Hessian is that of the inputs."""
    return 0.5 * ((found - y) ** 2).mean()


def network(seed: int, *, channels: int, steps: int, smooth: bool) -> Contest:
    """A conv net with one task."""
    problem = pictures(torch.float64, seed, tasks=1, channels=channels, smooth=smooth)
    problem = replace(problem, name=f"{'smooth ' if smooth else ''}conv net, {channels} channels")
    return Contest(problem, 2.0, (0.1, 0.03, 0.01, 0.003), steps)


def solvers(contest: Contest, tolerance: float) -> Iterator[tuple[str, mf.Inner]]:
    """Each solver at each of its learning rates."""
    loss, prox, steps = contest.problem.loss, contest.prox, contest.steps
    shared: dict[str, Any] = {"prox": prox, "tolerance": tolerance}
    for lr in contest.rates:
        yield "gradient descent", mf.gradient_descent(loss, lr=lr, steps=steps, **shared)
        yield "Nesterov", mf.nesterov(loss, smoothness=1 / lr - prox, steps=steps, **shared)
        yield "Adam", mf.adam(loss, lr=lr, steps=steps, **shared)
    for cg in (5, 20):
        newton = partial(mf.newton_cg, loss, steps=steps // 5, solver=mf.CG(cg, rtol=1e-3), **shared)
        yield f"Newton-CG, {cg} CG steps", newton()
    to_the_end = {"tolerance_grad": 0.0, "tolerance_change": 0.0, "max_eval": 25}
    lbfgs = partial(torch.optim.LBFGS, max_iter=1, line_search_fn="strong_wolfe", **to_the_end)
    yield "L-BFGS (torch.optim)", mf.optimizer_loop(loss, lbfgs, steps=steps, **shared)


def measure(contest: Contest) -> list[Row]:
    """One row a solver, at its best learning rate."""
    problem, prox = contest.problem, contest.prox
    (tally,) = (m for m in problem.net.modules() if isinstance(m, Tally))
    theta, (support, _) = problem.theta, problem.task(0)
    slope = torch.func.grad(lambda p: problem.loss(p, support))
    start = norm(slope(theta))
    best: dict[str, tuple[tuple[bool, int], Row]] = {}
    tried = list(solvers(contest, GOAL * start))
    for name, inner in track(tried, problem.name, console=Console(stderr=True), transient=True):
        tally.count = count = Count()
        phi = inner(theta, support)
        tally.count = None
        left = norm({n: g + prox * (phi[n] - theta[n]) for n, g in slope(phi).items()}) / start
        row: Row = {
            "solver": name,
            "passes forward": count.passes[0],
            "gradients": count.passes[1] - count.passes[2],
            "products": count.passes[2],
            "all passes": sum(count.passes),
            "gradient left": f"{left:.0e}",
        }
        rank = (not left <= GOAL, sum(count.passes) if left <= GOAL else left)
        if name not in best or rank < best[name][0]:
            best[name] = (rank, row)
    return [row for _, row in best.values()]


def norm(gradient: Params) -> float:
    """The norm over all parameters."""
    return float(sum((g**2).sum() for g in gradient.values()) ** 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small network and few steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where the table goes")
    options = parser.parse_args()
    print(machine())
    size = {"channels": 2, "steps": 30} if options.quick else {"channels": 8, "steps": 400}
    contests = [regression(options.seed), *(network(options.seed, smooth=s, **size) for s in (False, True))]
    rows: list[Row] = []
    for contest in contests:
        found = measure(contest)
        print_table(f"{contest.problem.name}: until the gradient is {GOAL:.0e} of that at the start", found)
        rows += [{"problem": contest.problem.name} | row for row in found]
    write_csv(options.out / "inner_solvers.csv", rows)


if __name__ == "__main__":
    main()
