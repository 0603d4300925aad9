"""Whether the estimates that a run learns from mean anything."""

from __future__ import annotations

from collections.abc import Mapping

HOPELESS = 0.5


def hopeless(row: Mapping[str, float]) -> str | None:
    """What is wrong with the means of an implicit estimator's figures, in words; ``None`` if nothing is.

    Half of what there was at the start is far from a solution, whatever a user means by near; for finer judgement there
    is :func:`metafunc.check`.
    """
    stationarity, residual = row.get("stationarity", 0.0), row.get("linear_residual", 0.0)
    found: list[str] = []
    if not stationarity <= HOPELESS:
        found.append(
            f"after the inner loop the gradient is still {stationarity:.2g} of that at its start on average, so that "
            "phi solves nothing (take more inner steps, or another lr or solver)"
        )
    if not residual <= HOPELESS:
        what = "linear solve leaves" if "linear_steps" in row else "perturbed inner problems leave"
        found.append(
            f"the {what} a relative residual of {residual:.2g} on average (raise max_steps or prox, or take more inner "
            "steps)"
        )
    return "; ".join(found) or None
