"""What a meta-gradient costs by every contestant, on sinusoids and on pictures; and binommaml's figure 4."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from agreement import differences
from contestants import PROX, Contestant, contestants, plain_loop
from problems import Problem, pictures, sinusoid

import metafunc as mf
from gpu_parts.measure import Call, Part, Row, rows_of

BASELINE = "plain autograd loop"
IN_TURN = 25
"""So many tasks stand for all where they are taken in turn, and there are more."""


def problems(quick: bool) -> dict[str, Callable[..., Problem]]:
    """Each from its number of inner steps and a dtype."""
    small: dict[str, Any] = {"blocks": 2, "channels": 4} if quick else {}
    large = small | {"side": 20 if quick else 84, "inputs": 3, "shots": 1, "queries": 15}
    counts = (2, 30, 2, 3, 2) if quick else (25, 1000, 4, 32, 4)

    def of(make: Callable[..., Problem], tasks: int, **options: Any) -> Callable[..., Problem]:
        return lambda steps, dtype=torch.float32: make(dtype, 0, steps=steps, tasks=tasks, **options)

    return {
        "sinusoid": of(sinusoid, counts[0]),
        "pictures": of(pictures, counts[2], **small),
        "many sinusoids": of(sinusoid, counts[1]),
        "many pictures": of(pictures, counts[3], **small),
        "large pictures": of(pictures, counts[4], **large),
    }


def costs(part: Part) -> None:
    """A table for every problem and K; those that say most come first."""
    makers = problems(part.quick)
    for name in ("sinusoid",) if part.quick else ("sinusoid", "pictures"):
        agreement(part, name, makers[name](2 if part.quick else 5, torch.float64).to(part.device))
    cells = [(name, k) for k in (5, 1, 16) for name in makers]
    if part.quick:
        cells = [("sinusoid", 2), ("many sinusoids", 1)]
    # The first tables have every estimator twice, with the tasks at once and in turn.
    both = {cell for cell in cells if cell[1] == cells[0][1] and "many" not in cell[0]}
    for done, (name, k) in enumerate(cells):
        if part.left < 2:
            part.write(note=f"No time was left for {len(cells) - done} tables: {cells[done:]}.")
            return
        weights = [3 if cell in both else 1 for cell in cells[done:]]
        problem = makers[name](k).to(part.device)
        runs, factors = entries(problem, (name, k) in both)
        seconds = part.left * weights[0] / (sum(weights) + 2)
        rows = rows_of(part, runs, seconds, baseline=BASELINE, factors=factors)
        note = f"Tasks taken in turn: {IN_TURN} of them were, and the time multiplied." if factors else ""
        part.table(problem.name, rows, note)
    implicit(part, makers["pictures"])


def agreement(part: Part, name: str, problem: Problem) -> None:
    """Whether those that claim to be exact compute the same, which times say nothing of."""
    try:
        apart = differences(problem)
    except AssertionError as error:
        part.write(note=f"On {name}: {error}")
        return
    exact = [e for row, e in apart.items() if "Explicit" in row or not row.startswith("mf")]
    part.write(agreement=name, exact=len(exact), worst=max(exact))


def entries(problem: Problem, loops: bool) -> tuple[dict[str, Call], dict[str, float]]:
    """The calls by name, and the factors of those that run on the first tasks alone."""
    rows: list[Contestant] = contestants(problem, loops)[0]
    factors: dict[str, float] = {}
    if problem.tasks > IN_TURN:
        few = {row.name: row for row in contestants(problem.first(IN_TURN))[0] if row.in_turn}
        factors = dict.fromkeys(few, problem.tasks / IN_TURN)
        rows = [few.get(row.name, row) for row in rows]
    return {row.name: row.run for row in rows}, factors


def of(problem: Problem, estimator: mf.Estimator, prox: float = 0.0) -> Call:
    """metafunc's meta-gradient of a problem, all tasks at once."""
    inner = mf.gradient_descent(problem.loss, lr=problem.lr, steps=problem.steps, prox=prox)
    of_batch = mf.meta_grad(problem.loss, estimator(inner), tasks=mf.Vmap())
    return lambda: of_batch(problem.theta, problem.support, problem.query).grad


def implicit(part: Part, make: Callable[..., Problem]) -> None:
    """The memory of long inner loops, and what it costs to look whether a solver is done."""
    for steps in (3,) if part.quick else (16, 64):
        if part.left < 2:
            return
        problem = make(steps).to(part.device)
        five = mf.CG(max_steps=5, rtol=0.0)
        runs = {
            BASELINE: lambda problem=problem: plain_loop(problem),
            "mf Explicit()": of(problem, mf.Explicit()),
            "mf Explicit(checkpoint=True)": of(problem, mf.Explicit(checkpoint=True)),
            "mf Implicit, 5 CG": of(problem, mf.Implicit(five), PROX),
            "the same, early_exit=False": of(problem, mf.Implicit(replace(five, early_exit=False)), PROX),
        }
        part.table(f"Long: {problem.name}", rows_of(part, runs, part.at_most(8), baseline=BASELINE))


def figure4(part: Part) -> None:
    """binommaml's figure 4: time, memory and use of the device against L, for its net, task and K = 5."""
    steps = 3 if part.quick else 5
    problem = problems(part.quick)["large pictures"](steps).first(1).to(part.device)
    ends = {0: mf.FirstOrder(), steps: mf.Explicit()}
    runs: dict[str, Call] = {}
    for method, make in (("TruncMAML", mf.Truncated), ("BinomMAML", mf.Binomial)):
        for n in range(steps + 1):
            runs[f"{method} {n}"] = of(problem, ends[n] if n in ends else make(n))
    rows: list[Row] = rows_of(part, runs, max(part.left - 2, 1.0), baseline=f"TruncMAML {steps}")
    known = [row for row in rows if "ms" in row]
    names = [row["contestant"].split() for row in known]
    part.write(figure4=[row | {"method": m, "L": int(n)} for row, (m, n) in zip(known, names, strict=True)])
    title = problem.name.split(",")[0]
    part.table(f"{title}, one task, K = {steps}, against L (0: FOMAML, {steps}: MAML)", rows)
