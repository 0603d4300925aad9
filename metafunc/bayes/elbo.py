"""The mean-field posterior of a task as an inner problem."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metafunc import options, tree
from metafunc.batching import Batching, Vmap
from metafunc.bayes import errors
from metafunc.bayes.gaussian import Gaussian, check_gaussian, distance, kl
from metafunc.bayes.predict import predict
from metafunc.inner import scalar
from metafunc.tree import Tree


@dataclass(frozen=True, slots=True, eq=False)
class Elbo:
    """The negative evidence lower bound of a task: ``objective(phi, theta, *data, noise)`` for any inner solver.

    Maths: for the prior ``theta = (m, s)``, the posterior ``phi = (m_t, s_t)`` and noise ``z_1 .. z_S``, all of them
    trees like the parameters, ``s`` for log-variances::

        1/S sum_j loss(m_t + exp(s_t / 2) z_j, *data) + kl_weight KL(N(m_t, exp s_t) || N(m, exp s))

    The solver starts at the prior itself. The noise belongs to the task's data (see :func:`noise`): the objective is
    an ordinary function with exact derivatives of every order, and under every estimator.

    Source: ibaml (5), (6), (24), (25), with Monte Carlo samples as in its section 4.1; Ravi and Beatson 2019.

    Cost: as many gradients of the loss as samples for one gradient of the objective.

    Attributes:
        loss: ``loss(params, *data) -> scalar``, the negative log-likelihood of the data. Nothing can check that it is
            one: squared error, say, is that of a Gaussian with variance 1/2 if summed.
        kl_weight: 1 if the loss is the *sum* over the data. For a *mean*, as torch's losses are by default, it is
            ``1 / (number of observations)``; that makes the objective the same up to this factor. Smaller weights
            than these make a cold posterior.
        variance: ``None`` to learn the posterior's variances, which start at the prior's. A number fixes them all;
            ``phi`` is then ``{"mean": ...}`` alone, and at 0 the posterior is a point: with the prior's variance fixed
            at ``d``, this is iMAML with ``prox = kl_weight / d`` (ibaml, remark 2).
        sampling: How the samples are run, equal in result: ``Vmap()``, for many samples; ``Loop()``, for a few on a
            CPU, where it is the faster one.

    Raises:
        TypeError, ValueError: If an attribute is of another kind or out of range; at the solve, if ``theta`` is no
            prior, the noise does not fit it, or the loss is not a scalar.

    Example:
        >>> elbo = mf.bayes.Elbo(loss, kl_weight=1 / 25)
        >>> adapt = mf.Implicit()(mf.gradient_descent(**elbo.problem, lr=0.1, steps=10))
        >>> theta = mf.bayes.prior(net, variance=0.01)
        >>> z = mf.bayes.noise(theta["mean"], 5, torch.Generator().manual_seed(0))
        >>> phi = adapt(theta, support, z)
    """

    loss: Callable[..., Tensor]
    kl_weight: float = 1.0
    variance: float | None = None
    sampling: Batching = Vmap()

    def __post_init__(self) -> None:
        options.function("loss", self.loss, "loss(params, *data) -> scalar")
        options.positive("kl_weight", self.kl_weight, "1 for a sum of losses, 1 / n for a mean of n")
        options.instance("sampling", self.sampling, Batching, "mf.Vmap(), mf.Vmap(chunk=...) or mf.Loop()")
        options.number("variance", self.variance, 0.0, optional=True)

    @property
    def problem(self) -> dict[str, Any]:
        """The arguments that say what an inner solver minimises: ``gradient_descent(**elbo.problem, ...)``."""
        return {"objective": self, "init": self.init}

    def init(self, theta: Gaussian) -> Gaussian:
        """The first ``phi``: the prior, without variances where they are fixed."""
        check_gaussian("theta", theta)
        return {"mean": theta["mean"]} if self.variance is not None else dict(theta)

    def posterior(self, phi: Gaussian) -> Gaussian:
        """``phi`` with its variances, fixed ones included (as logarithms, minus infinity for a point)."""
        if self.variance is None:
            return phi
        log = math.log(self.variance) if self.variance else -math.inf
        return {"mean": phi["mean"], "log_variance": tree.map(lambda x: torch.full_like(x, log), phi["mean"])}

    def expected(self, phi: Gaussian, *data: Tree) -> Tensor:
        """The expected loss under the posterior, by its samples: ``data`` are those of the loss and the noise."""
        if not data:
            raise errors.no_noise("Elbo")
        *given, z = data
        return predict(
            scalar(self.loss, "loss"), self.posterior(phi), z, *given, sampling=self.sampling
        ).mean()

    def penalty(self, phi: Gaussian, theta: Gaussian) -> Tensor:
        """``kl_weight KL``; where variances are fixed, without the entropy of the posterior, a constant."""
        if self.variance is None:
            return self.kl_weight * kl(phi, theta)
        spread = [(self.variance * torch.exp(-s) + s).sum() for s in tree.leaves(theta["log_variance"])]
        return 0.5 * self.kl_weight * (distance(phi["mean"], theta) + torch.stack(spread).sum())

    def __call__(self, phi: Gaussian, theta: Gaussian, *data: Tree) -> Tensor:
        """The objective; the last of ``data`` is the noise."""
        return self.expected(phi, *data) + self.penalty(phi, theta)
