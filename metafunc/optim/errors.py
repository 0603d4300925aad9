"""The messages of this package."""

from __future__ import annotations

from torch import Tensor


def nothing_observed() -> RuntimeError:
    """A step without the norms that its size depends on."""
    return RuntimeError(
        "SmoothnessAdaptiveGD.step: expected the norms of the task gradients at the present theta, got none since the "
        "last step. Call optimizer.observe(gradient_norms(loss, theta, support)) before every step."
    )


def not_norms(norms: Tensor) -> ValueError:
    """Something else than one norm a task."""
    return ValueError(
        f"SmoothnessAdaptiveGD.observe: expected a vector of at least one norm, got the shape {list(norms.shape)}. "
        f"Pass one norm a task, as gradient_norms(loss, theta, support) returns them."
    )
