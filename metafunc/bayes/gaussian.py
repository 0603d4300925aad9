"""Diagonal Gaussians over trees of parameters, as plain trees: prior and posterior alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metafunc import tree
from metafunc.bayes import errors
from metafunc.inner import check_parameters
from metafunc.tree import Tree

Gaussian = dict[str, Tree]
"""``{"mean": tree, "log_variance": tree}``, two trees of one nesting and one set of shapes."""


def prior(params: Tree, variance: Any = 1.0) -> Gaussian:
    """The prior ``N(mean, diag(exp(log_variance)))`` around given parameters: a Bayesian inner problem's ``theta``.

    Source: ibaml, section 2.1, whose ``d`` is ``exp(log_variance)``; the logarithm keeps it positive (appendix A.4).

    Args:
        params: The means: a tree of tensors, or a module, whose parameters that require a gradient are taken by name.
        variance: A number, or a tree like ``params`` of numbers and tensors that broadcast to the parameters.

    Returns:
        New tensors for the log-variances, and the means themselves, detached.

    Raises:
        TypeError, ValueError: If there are no floating parameters, or a variance is not positive, or does not fit.
    """
    if isinstance(params, nn.Module):
        params = {name: p for name, p in params.named_parameters() if p.requires_grad}
    check_parameters(params, "params")
    mean = tree.map(lambda x: x.detach(), params)
    if not isinstance(variance, dict | list | tuple):
        variance = tree.map(lambda _: variance, mean)
    if tree.structure(variance) != tree.structure(mean):
        raise errors.unlike_mean("variance", ".", tree.structure(mean), tree.structure(variance))
    leaves = zip(tree.paths(mean), tree.leaves(mean), tree.leaves(variance), strict=True)
    logs = [_log_variance(path, x, v) for path, x, v in leaves]
    return {"mean": mean, "log_variance": tree.rebuild(tree.structure(mean), logs)}


def _log_variance(path: str, like: Tensor, variance: Any) -> Tensor:
    given = torch.as_tensor(variance, dtype=like.dtype, device=like.device).detach()
    if not ((given > 0) & torch.isfinite(given)).all():
        raise errors.not_positive(path, given.min().item())
    try:
        return given.log().expand(like.shape).clone()
    except RuntimeError:
        raise errors.unlike_mean("variance", path, list(like.shape), list(given.shape)) from None


def kl(posterior: Gaussian, prior: Gaussian) -> Tensor:
    """The divergence ``KL(posterior || prior)`` of two diagonal Gaussians, in nats.

    Maths: ``1/2 sum(exp(s_t - s) - 1 + (m_t - m)^2 exp(-s) + s - s_t)`` for log-variances ``s_t`` and ``s``.

    Source: ibaml (25).

    Shapes:
        A scalar.
    """
    spread = tree.sub(posterior["log_variance"], prior["log_variance"])
    gain = tree.map(lambda s: torch.expm1(s) - s, spread)
    return 0.5 * (
        distance(posterior["mean"], prior) + torch.stack([x.sum() for x in tree.leaves(gain)]).sum()
    )


def distance(mean: Tree, prior: Gaussian) -> Tensor:
    """Mahalanobis' squared distance of a point from the prior, ``sum((m_t - m)^2 exp(-s))``."""
    away = tree.sub(mean, prior["mean"])
    return tree.dot(away, tree.map(lambda x, s: x * torch.exp(-s), away, prior["log_variance"]))


def check_gaussian(name: str, value: Any) -> None:
    """Raise unless ``value`` has means and as many log-variances."""
    given: Any = value
    if not isinstance(value, Mapping) or set(given) != {"mean", "log_variance"}:
        raise errors.not_a_gaussian(name, 'a mapping with "mean" and "log_variance"', value)
    mean, logs = given["mean"], given["log_variance"]
    if tree.structure(mean) != tree.structure(logs):
        raise errors.unlike_mean(f"{name} log_variance", ".", tree.structure(mean), tree.structure(logs))
    for path, x, s in zip(tree.paths(mean), tree.leaves(mean), tree.leaves(logs), strict=True):
        if tree.is_float(x) and (not tree.is_float(s) or x.shape != s.shape):
            raise errors.unlike_mean(f"{name} log_variance", path, list(x.shape), _shape(s))


def _shape(leaf: Any) -> Any:
    return list(leaf.shape) if isinstance(leaf, Tensor) else leaf
