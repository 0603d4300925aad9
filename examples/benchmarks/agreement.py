"""Whether contestants compute the same meta-gradient."""

from __future__ import annotations

from contestants import contestants, plain_loop
from problems import Params, Problem

TOLERANCE = 1e-10
"""The largest relative difference in float64 at which two exact contestants agree."""


def difference(found: Params, reference: Params) -> float:
    """The distance of two gradients relative to the length of the second, over all parameters together."""
    apart = sum(((found[n] - reference[n]) ** 2).sum() for n in reference)
    return float((apart / sum((g**2).sum() for g in reference.values())).sqrt())


def differences(problem: Problem) -> dict[str, float]:
    """For every contestant its distance from the exact derivative of the path of its own inner problem.

    Raises if one that claims to be exact is not.
    """
    rows, _ = contestants(problem)
    exact = {prox: plain_loop(problem, prox) for prox in {row.prox for row in rows}}
    found = {row.name: difference(row.run(), exact[row.prox]) for row in rows}
    wrong = [row.name for row in rows if row.exact and not found[row.name] < TOLERANCE]
    if wrong:
        raise AssertionError(f"not the exact meta-gradient: {wrong}, {found}")
    return found
