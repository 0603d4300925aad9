"""The error bounds of BinomMAML, and errors that are measured below them: figure 2 of binommaml.

K = 5, alpha = 0.25, H = 1, h = 0.1, M = 1, as in the paper, and everything divided by the paper's bound for
first-order MAML. The errors are those of the library's estimators on paths of random Hessians, 2 by 2, each the worst
over all g_K of norm 1; half of the Hessians have eigenvalues at the ends of what the theorem allows, and half of the
paths turn their eigenvectors by the same angle in every step.

    python examples/papers/binommaml_fig2.py
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import tyro
from matplotlib.figure import Figure
from report import Row, Run, print_table, save, verdict, write_csv
from torch import Tensor
from torch.func import grad, vmap

import metafunc as mf
from metafunc import bounds

K, ALPHA, H, LEAST, LAST = 5, 0.25, 1.0, 0.1, 1
METHODS: dict[str, tuple[Any, str]] = {
    "FirstOrder": (lambda _: mf.FirstOrder(), "#7f7f7f"),
    "Truncated": (mf.Truncated, "#d55e00"),
    "Binomial": (mf.Binomial, "#0072b2"),
}
LOCALLY = partial(bounds.strongly_convex, least=ALPHA * LEAST, last=LAST)
THEOREMS: dict[str, tuple[Any, Any, tuple[float, ...]]] = {
    "3.6, Lipschitz": (bounds.lipschitz, bounds.lipschitz, (-H,) * K),
    "3.8, convex": (partial(bounds.convex, commuting=True), bounds.convex, (0.0,) * K),
    "3.10, locally strongly convex": (
        partial(LOCALLY, commuting=True),
        LOCALLY,
        (-H,) * (K - LAST) + (LEAST,) * LAST,
    ),
}


@dataclass(frozen=True)
class Options(Run):
    """Draw the bounds, and measure errors on random paths."""

    seeds: int = 3  # Random streams.
    paths: int = 20_000  # Paths of Hessians for each of them.


@mf.iterates(steps=K, init=lambda theta: {"x": theta, "k": torch.zeros((), dtype=theta.dtype)})
def descent(phi: Any, theta: Tensor, hessians: Tensor) -> Any:
    """A step of gradient descent on a quadratic that is another one in each step."""
    chosen = (torch.arange(K) == phi["k"].detach()).to(theta.dtype)
    hessian = torch.einsum("k,kij->ij", chosen, hessians)
    return {"x": phi["x"] - ALPHA * hessian @ phi["x"], "k": phi["k"] + 1}


def draw(low: tuple[float, ...], paths: int, seed: int) -> Tensor:
    """Hessians [paths, K, 2, 2] with eigenvalues between ``low``, one for each step, and ``H``."""
    draws = torch.Generator().manual_seed(seed)
    rand = partial(torch.rand, generator=draws, dtype=torch.float64)
    part = rand(paths, K, 2)
    part[: paths // 2] = part[: paths // 2].round()
    angle = math.pi * rand(paths, K)
    angle[::2] = math.pi * rand(paths, 1)[::2] * torch.arange(K)
    bases = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).unflatten(-1, (2, 2))
    least = torch.tensor(low, dtype=torch.float64)[:, None]
    return bases @ torch.diag_embed(least + (H - least) * part) @ bases.mT


def gradients(estimator: mf.Estimator, hessians: Tensor) -> Tensor:
    """What the estimator makes of each unit vector g_K, as rows: [paths, 2, 2]."""
    adapt, eye = estimator(descent), torch.eye(2, dtype=hessians.dtype)

    def one(hessians: Tensor, g: Tensor) -> Tensor:
        return grad(lambda theta: g @ adapt(theta, hessians)["x"])(torch.zeros_like(g))

    return vmap(lambda h: vmap(partial(one, h))(eye))(hessians)


def measure(options: Options) -> list[Row]:
    """A row for each theorem, method and L; bounds and errors divided by the first-order bound of the paper."""
    rows: list[Row] = []
    for theorem, (published, always, low) in THEOREMS.items():
        paths = 500 if options.quick else options.paths
        hessians = torch.cat([draw(low, paths, seed) for seed in range(options.seeds)])
        exact, unit = gradients(mf.Explicit(), hessians), published(mf.FirstOrder(), ALPHA * H, K)
        for method, (make, _) in METHODS.items():
            for length in range(K + 1):
                estimator = make(length)
                error = torch.linalg.matrix_norm(gradients(estimator, hessians) - exact, ord=2) / unit
                rows.append(
                    {"theorem": theorem, "method": method, "L": length}
                    | {"bound": published(estimator, ALPHA * H, K) / unit}
                    | {"bound without order": always(estimator, ALPHA * H, K) / unit}
                    | {"worst": float(error.max()), "mean": float(error.mean())}
                )
    return rows


def chart(rows: list[Row]) -> Figure:
    """A panel a theorem: bounds as lines, the worst errors as filled and the mean ones as open points."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    for axis, theorem in zip(figure.subplots(1, 3, sharey=True), THEOREMS, strict=True):
        for method, (_, colour) in METHODS.items():
            own = [row for row in rows if (row["theorem"], row["method"]) == (theorem, method)]
            own = [
                row for row in own if method == "FirstOrder" or row["L"] < K
            ]  # 0 at K, which a logarithm lacks
            x = [row["L"] for row in own]
            axis.plot(x, [row["bound"] for row in own], color=colour, label=f"{method}: bound")
            axis.plot(x, [row["worst"] for row in own], "o", color=colour, label="worst error measured")
            axis.plot(x, [row["mean"] for row in own], "o", color=colour, mfc="none", label="mean error")
        axis.set(yscale="log", xlabel="L", title=f"Theorem {theorem}")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(linewidth=0.3)
    figure.axes[0].set_ylabel("error / bound of first-order MAML")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )
    return figure


def main(options: Options) -> None:
    torch.set_num_threads(1)
    rows = measure(options)
    print_table("Bounds and measured errors, in units of the first-order bound", rows)
    out = options.out / "binommaml_fig2"
    write_csv(rows, out / "lines.csv")
    save(chart(rows), out / "binommaml_fig2.png")
    claims = {}
    for theorem in THEOREMS:
        own = [row for row in rows if row["theorem"] == theorem]
        bound = {(row["method"], row["L"]): row["bound"] for row in own}
        within = all(row["worst"] <= row["bound without order"] + 1e-12 for row in own)
        claims[f"{theorem}: no error above the bound of metafunc.bounds for any Hessians"] = within
        claims[f"{theorem}: no error above the paper's bound"] = all(
            row["worst"] <= row["bound"] + 1e-12 for row in own
        )
        claims[f"{theorem}: binomial < truncated < first-order for L = 1 to 4"] = all(
            bound["Binomial", n] < bound["Truncated", n] < bound["FirstOrder", n] for n in range(1, K)
        )
    verdict(claims)


if __name__ == "__main__":
    main(tyro.cli(Options))
