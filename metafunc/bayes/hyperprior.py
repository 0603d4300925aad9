"""The prior of the prior."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Gamma

from metafunc import options, tree
from metafunc.bayes.gaussian import Gaussian


def gamma_hyperprior(theta: Gaussian, shape: float = 1.0, rate: float = 0.01) -> Tensor:
    """The negative log-density of the prior's precisions under a Gamma distribution, to be added to the outer loss.

    Maths: ``-sum(log Gamma(1 / d; shape, rate))``, up to constants ``sum((shape - 1) s + rate exp(-s))`` for the
    log-variances ``s``: it keeps the prior's variances from collapsing to zero.

    Source: Ravi and Beatson 2019 (amortised Bayesian meta-learning), whose values the defaults are; ibaml, A.4.

    It is one term for all tasks and all their data. Added to a mean over tasks of a mean over observations, it wants
    the weight ``1 / (tasks in the training set * observations of a task)``.

    Shapes:
        A scalar.

    Raises:
        ValueError: If a parameter is not positive.
    """
    for name, value in (("shape", shape), ("rate", rate)):
        options.positive(name, value, 1.0)
    density = Gamma(shape, rate, validate_args=False)
    return -torch.stack(
        [density.log_prob(torch.exp(-s)).sum() for s in tree.leaves(theta["log_variance"])]
    ).sum()
