"""Linear solvers on easy, hard and hopeless systems, beside TorchOpt's: right, flagged, or silently wrong.

A cell is the relative error against dense algebra in float64; "flagged" where the solver's figures say that its answer
should not be used; "WRONG" or "NaN" where they do not, and it should not; or the exception that was raised.

    python examples/benchmarks/linear_solvers.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchopt
from report import Row, machine, print_table, write_csv
from torch import Tensor
from torch.func import vmap

from metafunc.linear import CG, GMRES, MINRES, Direct, Jacobi, LinearSolver, Neumann, NormalCG

D = 8
ENOUGH = 1e-8
"""The relative residual up to which a solve counts as done."""
RIGHT = 1e-3
"""The relative error up to which an answer is no lie: 1e-8 times the condition, and some."""


class Problem(NamedTuple):
    """A system; ``x`` is what dense algebra says, ``None`` where there is nothing to find.

    Only ``seen`` of an answer is judged: of a singular system any solution is one.
    """

    matrix: Tensor
    b: Tensor
    x: Tensor | None
    seen: Tensor


def problems() -> dict[str, Problem]:
    """The columns of the table."""
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(D, D))[0]
    b = torch.randn(D)

    def symmetric(*eigenvalues: float) -> Tensor:
        return basis @ torch.diag(torch.tensor(eigenvalues, dtype=basis.dtype)) @ basis.T

    def regular(matrix: Tensor, b: Tensor = b) -> Problem:
        return Problem(matrix, b, torch.linalg.solve(matrix, b), torch.eye(len(b)))

    singular = symmetric(0, 0, *range(1, D - 1))
    inverse = torch.linalg.pinv(singular)
    return {
        "identity": regular(torch.eye(D)),
        "diagonal": regular(torch.diag(torch.arange(1.0, D + 1))),
        "kappa 1e2": regular(symmetric(*torch.logspace(0, 2, D).tolist())),
        "kappa 1e6": regular(symmetric(*torch.logspace(-6, 0, D).tolist())),
        "indefinite": regular(symmetric(-3, -1, *range(1, D - 1))),
        "singular": Problem(singular, singular @ b, inverse @ singular @ b, inverse @ singular),
        "inconsistent": Problem(singular, b, None, torch.eye(D)),
        "nonsymmetric": regular(torch.randn(D, D) + 4 * torch.eye(D)),
        "rotation": regular(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), torch.tensor([1.0, 0.0])),
        "1 x 1": regular(torch.tensor([[3.0]]), torch.tensor([2.0])),
        "b = 0": regular(symmetric(*range(1, D + 1)), torch.zeros(D)),
        "b = 1e-200": regular(symmetric(*range(1, D + 1)), 1e-200 * b),
        "NaN": Problem(torch.full((D, D), float("nan")), b, None, torch.eye(D)),
    }


def flagged(stats: dict[str, Tensor]) -> Tensor:
    """Whether the figures of a solve warn of its answer."""
    down = [stats[name] for name in ("breakdown", "negative_curvature", "asymmetric")]
    return down[0] | down[1] | down[2] | ~(stats["linear_residual"] <= ENOUGH)


def verdict(x: Tensor, warned: bool, problem: Problem) -> str:
    """What one answer is worth."""
    if not torch.isfinite(x).all():
        return "NaN"
    if warned:
        return "flagged"
    if problem.x is None:
        return "WRONG"
    size = float(problem.x.abs().max()) or 1.0  # first, since squares of very small numbers vanish
    expected = problem.x / size
    error = float((problem.seen @ (x / size) - expected).norm()) / (float(expected.norm()) or 1.0)
    return f"{error:.0e}" if error <= RIGHT else "WRONG"


def ours(solver: LinearSolver) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A solver of this package: its answer, and whether it warns."""

    def solve(matrix: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        x, stats = solver.solve(lambda w: matrix @ w, b)
        return x, flagged(stats)

    return solve


def theirs(solver: Any) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A solver of TorchOpt's, which never warns."""
    return lambda matrix, b: (solver(lambda w: matrix @ w, b), torch.zeros((), dtype=torch.bool))


def contestants() -> dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """The rows of the table."""
    few = {"max_steps": 3 * D, "rtol": 1e-12}
    solvers: dict[str, LinearSolver] = {
        "CG": CG(**few),
        "CG, Jacobi": CG(**few, preconditioner=Jacobi()),
        "CG, fallback MINRES": CG(**few, fallback=MINRES(**few)),
        "MINRES": MINRES(**few),
        "GMRES": GMRES(**few),
        "GMRES, restart 4": GMRES(**few, restart=4),
        "NormalCG": NormalCG(**few),
        "Neumann": Neumann(max_steps=400, scale=0.1),
        "Direct": Direct(),
        "Direct, rcond 1e-10": Direct(rcond=1e-10),
    }
    torch_opt = torchopt.linear_solve
    return {name: ours(solver) for name, solver in solvers.items()} | {
        "torchopt solve_cg": theirs(torch_opt.solve_cg(maxiter=3 * D, rtol=1e-12)),
        "torchopt solve_normal_cg": theirs(torch_opt.solve_normal_cg(maxiter=3 * D, rtol=1e-12)),
        "torchopt solve_inv": theirs(torch_opt.solve_inv()),
    }


def cell(solve: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], problem: Problem) -> str:
    """One solver, one system."""
    try:
        x, warned = solve(problem.matrix, problem.b)
    except Exception as error:  # whatever it raises is the result
        return type(error).__name__
    return verdict(x, bool(warned), problem)


def batch(solve: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], together: list[Problem]) -> str:
    """One solver, all systems of one size as a batch under ``vmap``: the same verdicts as alone, or not."""
    try:
        x, warned = vmap(solve)(
            torch.stack([p.matrix for p in together]), torch.stack([p.b for p in together])
        )
    except Exception as error:  # whatever it raises is the result
        return type(error).__name__
    found = [
        verdict(y, bool(w), p) for y, w, p in zip(x, warned.expand(len(together)), together, strict=True)
    ]
    bad = sum(word in ("WRONG", "NaN") for word in found)
    return f"{bad} wrong" if bad else "as alone"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where the table goes")
    parser.add_argument("--quick", action="store_true", help="nothing to leave out: it takes seconds")
    out: Path = parser.parse_args().out
    torch.set_default_dtype(torch.float64)
    columns = problems()
    together = [problem for problem in columns.values() if len(problem.b) == D]
    rows: list[Row] = [
        {"solver": name}
        | {title: cell(solve, problem) for title, problem in columns.items()}
        | {"vmap of all": batch(solve, together)}
        for name, solve in contestants().items()
    ]
    print(machine())
    print_table("Relative error, or what else came of it", rows)
    write_csv(out / "linear_solvers.csv", rows)


if __name__ == "__main__":
    main()
