"""From the figures of a meta-gradient to plain words about whether it can be used."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from metafunc import errors, options, tree
from metafunc.metagrad import MetaGrad
from metafunc.outer import MetaStep
from metafunc.rule import Stats

Result = TypeVar("Result", MetaGrad, MetaStep)


def check(result: Result, *, stationarity: float = 0.1, linear_residual: float = 0.1) -> Result:
    """Return ``result``, or raise if it should not be used.

    Raising on data inside a transform would break under ``vmap``, so the estimators only take note; this looks at the
    notes. What needs an eigenvalue (``prox`` too small for ``Implicit``, ``Binomial`` outside its range) is looked at
    if ``meta_grad`` was asked for it with ``lanczos=``.

    Args:
        result: From :func:`meta_grad`, or from a step of a :class:`MetaOptimizer`.
        stationarity: For implicit estimators, the largest norm of the inner gradient at ``phi`` that is accepted, as a
            fraction of that at the start.
        linear_residual: For implicit estimators, the largest relative residual of the linear solve (of the perturbed
            problems, for ``FiniteDifference``) that is accepted.

    Raises:
        TypeError: If ``result`` is something else.
        CheckError: Naming everything that was found, how many tasks it concerns, and what to do.
    """
    expected = "what mf.meta_grad(...)(...) or MetaOptimizer.step returned, a MetaGrad or a MetaStep"
    options.instance("result", result, (MetaGrad, MetaStep), expected)
    options.positive("stationarity", stationarity, 0.1)
    options.positive("linear_residual", linear_residual, 0.1)
    found = [
        *_not_finite(result),
        *_not_solved(result.stats, stationarity),
        *_curvature(result.stats),
        *_linear_solve(result.stats, linear_residual),
        *_series(result.stats),
    ]
    if found:
        raise errors.unusable(found)
    return result


def _not_finite(result: MetaGrad | MetaStep) -> list[str]:
    found: list[str] = []
    losses = result.stats["loss"]
    if not torch.isfinite(losses).all():
        found.append(f"the outer loss is not finite ({_how_many(~torch.isfinite(losses))})")
    if isinstance(result, MetaStep):
        if result.grad_norm is not None and not torch.isfinite(result.grad_norm):
            found.append("the meta-gradient is not finite: lower the inner lr, or look at the inner loss")
        return found
    for path, leaf in zip(tree.paths(result.grad), tree.leaves(result.grad), strict=True):
        if tree.is_float(leaf) and not torch.isfinite(leaf).all():
            found.append(
                f"the meta-gradient at {path} is not finite: lower the inner lr, or look at the inner loss"
            )
    return found


def _not_solved(stats: Stats, limit: float) -> list[str]:
    if "stationarity" not in stats:
        return []
    far = ~(stats["stationarity"] <= limit)
    if not far.any():
        return []
    text = (
        f"phi does not solve the inner problem ({_how_many(far)}, the gradient is still up to "
        f"{_worst(stats['stationarity']):.2g} of that at the start), so the implicit formula does not apply: take more "
        "steps, another lr or a better solver, or differentiate the path with Explicit or Truncated"
    )
    return [text]


def _linear_solve(stats: Stats, limit: float) -> list[str]:
    if "linear_residual" not in stats:
        return []
    found: list[str] = []
    if _any(stats, "breakdown"):
        found.append(
            f"the linear solve broke down ({_how_many(stats['breakdown'])}): singular, or not finite"
        )
    if _any(stats, "asymmetric"):
        found.append(
            f"the matrix is not symmetric ({_how_many(stats['asymmetric'])}), which the linear solver needs: use GMRES "
            "or NormalCG"
        )
    loose = ~(stats["linear_residual"] <= limit)
    if loose.any():
        worst = f"({_how_many(loose)}, worst relative residual {_worst(stats['linear_residual']):.2g})"
        if "linear_steps" in stats:
            found.append(f"the linear solve has not converged {worst}: raise max_steps, or prox")
        else:
            found.append(
                f"the perturbed inner problems are not solved {worst}: take more steps, or raise prox"
            )
    return found


def _curvature(stats: Stats) -> list[str]:
    negative = _any(stats, "negative_curvature")
    if not negative and not ("stationarity" in stats and "curvature_min" in stats):
        return []
    lowest = stats.get("curvature_min", stats.get("least_curvature"))
    flags = stats["negative_curvature"] if negative else stats["curvature_min"] <= 0
    if not flags.any():
        return []
    by = "" if lowest is None else f" by more than {max(-float(lowest.min()), 0.0):.2g}"
    text = (
        f"the inner objective has negative curvature at phi ({_how_many(flags)}), so phi is no minimum that moves with "
        f"theta: prox is too small, raise it{by}, or declare a fallback, CG(fallback=MINRES(...))"
    )
    return [text]


def _series(stats: Stats) -> list[str]:
    if "series_error" not in stats:
        return []
    # An exact series has both errors of zero, up to rounding.
    slack = 10 * torch.finfo(stats["series_error"].dtype).eps
    outside = ~(stats["series_error"] <= stats["first_order_error"] + slack)
    if not outside.any():
        return []
    worst = int(torch.argmax(stats["reach_max"].flatten()))
    reach, series, first = (
        float(stats[name].flatten()[worst]) for name in ("reach_max", "series_error", "first_order_error")
    )
    text = (
        f"Binomial is outside its range ({_how_many(outside)}): lr * largest eigenvalue is about {reach:.2g}, "
        f"where its error along that eigenvector is {series:.2g}, that of FirstOrder {first:.2g}: raise order, lower "
        "lr, or use Truncated or Explicit"
    )
    return [text]


def _any(stats: Stats, name: str) -> bool:
    return name in stats and bool(stats[name].any())


def _worst(values: Tensor) -> float:
    return float("nan") if torch.isnan(values).any() else float(values.max())


def _how_many(flags: Tensor) -> str:
    return f"{int(flags.sum())} of {flags.numel()} tasks"
