"""``Explicit`` by ``torch.compile``, as it is and with CUDA graphs."""

from __future__ import annotations

import time
from typing import Any

import torch
from agreement import difference
from contestants import over_tasks, plain_loop, stacked_autograd

import metafunc as mf
from gpu_parts.costs import BASELINE, of, problems
from gpu_parts.measure import Call, Part, Row, rows_of

MODES: dict[str, dict[str, Any]] = {
    "compiled": {},
    "compiled, CUDA graphs": {"mode": "reduce-overhead"},
}


def compiled(part: Part) -> None:
    """What the compiler raises is the result of that row."""
    makers = problems(part.quick)
    modes = {"compiled": {"backend": "aot_eager"}} if part.quick else MODES
    for name, k in [("sinusoid", 1)] if part.quick else [("sinusoid", 5), ("pictures", 1), ("pictures", 5)]:
        if part.left < 5:
            return
        problem = makers[name](k).to(part.device)
        adapt = mf.Explicit()(mf.gradient_descent(problem.loss, lr=problem.lr, steps=k))

        def meta_loss(
            theta: Any, support: Any, query: Any, adapt: Any = adapt, problem: Any = problem
        ) -> Any:
            return problem.loss(adapt(theta, support), query)

        runs: dict[str, Call] = {
            BASELINE: lambda problem=problem: plain_loop(problem),
            "stacked, by hand": lambda problem=problem: stacked_autograd(problem),
            "mf Vmap() Explicit()": of(problem, mf.Explicit()),
            "mf vmap(grad(..)) Explicit()": over_tasks(problem, meta_loss),
        }
        expected, extra, failed = plain_loop(problem), {}, []
        for label, options in modes.items():
            torch._dynamo.reset()
            start = time.perf_counter()
            call = over_tasks(problem, meta_loss, lambda fn, options=options: torch.compile(fn, **options))
            try:
                apart = difference(call(), expected)
            except Exception as error:
                failed.append(f"{label}: {type(error).__name__}: {str(error)[:200]}")
                continue
            extra[label] = {"compile s": time.perf_counter() - start, "from the loop": apart}
            runs[label] = call
        rows: list[Row] = rows_of(part, runs, part.at_most(6), baseline=BASELINE)
        part.table(
            f"Compiled: {problem.name}",
            [row | extra.get(row["contestant"], {}) for row in rows],
            "; ".join(failed),
        )
