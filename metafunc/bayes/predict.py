"""What a posterior predicts: the outputs of its samples, and what they say together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metafunc import options, tree
from metafunc.batching import Batching, Vmap
from metafunc.bayes import errors
from metafunc.bayes.gaussian import Gaussian
from metafunc.bayes.noise import check_noise, sample
from metafunc.tree import Tree


def predict(
    model: Callable[..., Tree], posterior: Gaussian, noise: Tree, *inputs: Tree, sampling: Batching = Vmap()
) -> Tree:
    """The outputs of every sample of the posterior.

    Args:
        model: ``model(params, *inputs) -> outputs``.
        posterior: ``phi``, or ``elbo.posterior(phi)`` where variances are fixed.
        noise: One noise a sample, see :func:`noise`.
        inputs: What the model is given, the same for every sample.
        sampling: How the samples are run: ``Vmap()``, ``Vmap(chunk=...)`` or ``Loop()``, equal in result.

    Shapes:
        [samples, ...] for outputs of shape [...].

    Raises:
        ValueError: If the noise does not fit the posterior.
    """

    def one(posterior: Gaussian, z: Tree, *inputs: Tree) -> tuple[Tree, Tree]:
        return (), model(sample(posterior, z), *inputs)

    count = check_noise(posterior["mean"], noise)
    # Repeated without copies, since torch cannot map every operator of which one argument is not mapped.
    shared = (tree.repeat(x, count) for x in inputs)
    return sampling.map(one, posterior, (noise, *shared), count)[1]


def class_log_probabilities(outputs: Tensor) -> Tensor:
    """The logarithm of the posterior predictive ``p(class) = 1/S sum_j softmax(outputs_j)``.

    Shapes:
        Logits [samples, ..., classes] to [..., classes].
    """
    return torch.logsumexp(torch.log_softmax(outputs, -1), 0) - math.log(len(outputs))


class Predictive(NamedTuple):
    """The posterior predictive of a regression.

    Attributes:
        mean: Of the outputs over the samples.
        std: Of an observation: the samples' spread, which more data would reduce, and the noise, which they would not.
        spread: Of the outputs over the samples alone.
    """

    mean: Tensor
    std: Tensor
    spread: Tensor


def regression(outputs: Tensor, noise_std: float = 0.0) -> Predictive:
    """The first two moments of the posterior predictive, a mixture of ``N(outputs_j, noise_std^2)``.

    Args:
        outputs: Of every sample.
        noise_std: The standard deviation of the observations around the outputs.

    Shapes:
        Outputs [samples, ...] to [...] each.

    Raises:
        ValueError: If ``noise_std`` is negative.
    """
    options.number("noise_std", noise_std, 0.1)
    variance = outputs.var(0, correction=0)
    return Predictive(outputs.mean(0), (variance + noise_std**2).sqrt(), variance.sqrt())


def regression_nll(outputs: Tensor, targets: Tensor, noise_std: float) -> Tensor:
    """The negative log-likelihood of every target under the mixture ``1/S sum_j N(outputs_j, noise_std^2)``, in nats.

    Shapes:
        Outputs [samples, ...] and targets [...] to [...].

    Raises:
        ValueError: If ``noise_std`` is not positive, or the targets do not fit the outputs.
    """
    options.positive("noise_std", noise_std, 0.1)
    if outputs.shape[1:] != targets.shape:
        raise errors.not_outputs("outputs [samples, ...] and targets [...]", outputs, targets)
    logs = -0.5 * ((targets - outputs) / noise_std) ** 2 - math.log(noise_std * math.sqrt(2 * math.pi))
    return math.log(len(outputs)) - torch.logsumexp(logs, 0)
