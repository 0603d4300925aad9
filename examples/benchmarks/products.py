"""The cost of a Hessian-vector product in units of one gradient, for every way to form it.

On the MLP and the conv net of the other benchmarks, one task, and on a batch of tasks under vmap. "First" is one
product with its preparation; "further" is each more at the same point, as the steps of a linear solver need them. The
contestants take turns, so that whatever else the machine does hits all of them alike. All exact ways must agree; for
the others "distance" is how far their product is from the exact one, relative to it. (Both networks have ReLUs, whose
kinks a difference sees and a derivative does not.)

    python examples/benchmarks/products.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from problems import Params, Problem, pictures, sinusoid
from report import Row, machine, print_table, write_csv
from rich.console import Console
from rich.progress import track
from torch.func import functional_call, vmap

import metafunc as mf
from metafunc import tree

CURVATURES: dict[str, mf.Curvature] = {
    "reverse over reverse": mf.Exact("reverse"),
    "forward over reverse": mf.Exact("forward"),
    "auto": mf.Exact(),
    "CentralDifference()": mf.CentralDifference(),
    "GaussNewton()": mf.GaussNewton(),
}
FURTHER = 4


def runs(problem: Problem, tasks: int) -> dict[str, Callable[[], Any]]:
    """One gradient, and for every curvature one product and several, each as a call."""
    loss = mf.Composed(
        lambda params, batch: functional_call(problem.net, params, (batch[0],)),
        lambda outputs, batch: problem.criterion(outputs, batch[1]),
    )
    inner = mf.gradient_descent(loss, lr=problem.lr, steps=1)
    theta = problem.theta
    batch = tree.index(problem.support, slice(0, tasks))
    vector = torch.func.grad(loss)(
        theta, tree.index(problem.query, 0)
    )  # the direction that an estimator asks for

    def over_tasks(one: Callable[[Any], Any]) -> Callable[[], Any]:
        return lambda: vmap(one)(batch) if tasks > 1 else one(tree.index(batch, 0))

    def products(curvature: mf.Curvature, count: int) -> Callable[[Any], Params]:
        hessian = curvature.hessian(inner)

        def one(batch: Any) -> Params:
            product = hessian(theta, inner.args(theta, (batch,)))
            found = product(vector)
            for _ in range(count):
                found = product(found)
            return found

        return one

    calls: dict[str, Callable[[], Any]] = {
        "gradient": over_tasks(lambda b: torch.func.grad(loss)(theta, b)),
    }
    for name, curvature in CURVATURES.items():
        calls[name] = over_tasks(products(curvature, 0))
        calls[f"{name} {FURTHER} more"] = over_tasks(products(curvature, FURTHER))
    return calls


def measure(problem: Problem, tasks: int, repeats: int) -> list[Row]:
    """A row for every curvature, in units of the median time of one gradient."""
    calls = runs(problem, tasks)
    exact = tree.ravel(calls["reverse over reverse"]())[0]
    errors = {
        name: float((tree.ravel(calls[name]())[0] - exact).norm() / exact.norm()) for name in CURVATURES
    }
    for name in ("forward over reverse", "auto"):
        if errors[name] > 1e-3:
            raise AssertionError(f"{name} is not the exact product: {errors[name]:.1e}")
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    title = f"{problem.name}, {tasks} task(s)"
    for _ in track(range(repeats), title, console=Console(stderr=True), transient=True):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(s) for name, s in seconds.items()}
    unit = median["gradient"]
    return [
        {
            "problem": title,
            "curvature": name,
            "first": f"{median[name] / unit:.1f}",
            "further": f"{(median[f'{name} {FURTHER} more'] - median[name]) / FURTHER / unit:.1f}",
            "distance": f"{errors[name]:.0e}",
        }
        for name in CURVATURES
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small problems, two repetitions")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where the table goes")
    options = parser.parse_args()
    repeats = 2 if options.quick else options.repeats
    print(machine())
    mlp = sinusoid(torch.float32, options.seed)
    conv = pictures(torch.float32, options.seed, channels=4 if options.quick else 32)
    rows: list[Row] = []
    for problem, tasks in ((mlp, 1), (mlp, mlp.tasks), (conv, 1), (conv, conv.tasks)):
        found = measure(problem, tasks, repeats)
        rows += found
        print_table(f"{found[0]['problem']}: cost in gradients", [dict(list(r.items())[1:]) for r in found])
    write_csv(options.out / "products.csv", rows)


if __name__ == "__main__":
    main()
