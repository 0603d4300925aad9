"""Linear regression with a given condition number, where everything is known: what a biased meta-gradient costs.

    python examples/linear_regression.py
    python examples/linear_regression.py --condition 1000 --inner-steps 50

The inner problem is quadratic, so that the adapted parameters are an affine function of the meta-parameters, the outer
loss is quadratic too, and its minimum is a matter of linear algebra. Every estimator minimises it by the same gradient
descent; how far from the minimum it comes to rest is its bias. The tasks are those of iMAML, appendix F.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.func import vmap

import metafunc as mf


@dataclass(frozen=True)
class Options:
    """Minimise the outer loss of a few tasks of linear regression with every estimator."""

    dimension: int = 20  # Of the inputs.
    condition: float = 50.0  # Number of the Hessian of every task; its largest eigenvalue is one.
    tasks: int = 10  # How many tasks there are.
    inner_steps: int = 20  # Steps of gradient descent on each.
    inner_lr: float = 0.1  # Their learning rate.
    prox: float = 0.3  # The weight of the pull towards theta.
    steps: int = 40  # Steps of gradient descent on the outer loss.
    seed: int = 0  # Of the tasks.
    output: Path = Path("runs/linear_regression")  # The folder of the picture.


def main(options: Options) -> None:
    family = mf.data.LinearRegression(
        options.dimension, options.condition, shots=2 * options.dimension, dtype=torch.float64
    )
    support, query = family.sample(options.tasks, torch.Generator().manual_seed(options.seed)).values()
    inner = mf.gradient_descent(
        family.loss, lr=options.inner_lr, steps=options.inner_steps, prox=options.prox
    )
    estimators = [
        mf.Explicit(),
        mf.Truncated(options.inner_steps // 4),
        mf.Binomial(4),
        mf.Implicit(mf.CG(max_steps=2)),
        mf.Implicit(mf.CG(max_steps=10)),
        mf.FiniteDifference(),
        mf.FirstOrder(),
    ]

    # adapt(theta) = A theta + b for each task, whatever the estimator; the outer loss is that of X (A theta + b) - y.
    adapt = mf.FirstOrder()(inner)
    zero = torch.zeros(options.dimension, dtype=torch.float64)
    b = vmap(adapt, in_dims=(None, 0))(zero, support)
    columns = vmap(vmap(adapt, in_dims=(None, 0)), in_dims=(0, None))(
        torch.eye(options.dimension).double(), support
    )
    A = (columns - b).permute(1, 2, 0)
    rows, targets = query[0] @ A, query[1] - (query[0] @ b[..., None])[..., 0]
    best = torch.linalg.lstsq(rows.flatten(0, 1), targets.flatten()).solution

    def outer(theta: Tensor) -> float:
        return 0.5 * (rows @ theta - targets).square().mean().item()

    curvature = torch.linalg.eigvalsh(torch.einsum("tni,tnj->ij", rows, rows) / targets.numel())
    start, lowest, lr = outer(zero + 1), outer(best), 1 / curvature.max().item()
    table = Table(
        "estimator", "gap of the outer loss", "distance of theta", title=f"after {options.steps} steps"
    )
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for estimator in track(estimators, description="minimising"):
        meta_grad, theta = mf.meta_grad(family.loss, estimator(inner), tasks=mf.Vmap()), zero + 1
        gaps = [1.0]
        for _ in range(options.steps):
            theta = theta - lr * meta_grad(theta, support, query).grad
            gaps.append((outer(theta) - lowest) / (start - lowest))
        table.add_row(repr(estimator), f"{gaps[-1]:.1e}", f"{(theta - best).norm() / best.norm():.1e}")
        axes.plot(gaps, label=repr(estimator))
    Console().print(table)

    axes.set(xlabel="steps on the outer loss", ylabel="gap to its minimum, as a share of that at the start")
    axes.set(yscale="log", ylim=1e-8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize="small")
    options.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output / "linear_regression.png", dpi=110)
    print(f"picture: {options.output / 'linear_regression.png'}")


if __name__ == "__main__":
    main(tyro.cli(Options))
