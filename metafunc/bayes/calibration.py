"""Whether probabilities can be believed."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metafunc import options
from metafunc.bayes import errors
from metafunc.bayes.predict import class_log_probabilities
from metafunc.errors import not_installed


class Calibration(NamedTuple):
    """Figures of a classifier's answers, without axes.

    Attributes:
        accuracy: The share of right answers.
        nll: The mean negative log-likelihood of the right classes under the posterior predictive, in nats.
        ece: The expected calibration error: the mean over bins of confidence, by their number of answers, of the
            distance between confidence and accuracy.
        mce: The maximum calibration error: the largest such distance of a bin, however few answers it has.
    """

    accuracy: Tensor
    nll: Tensor
    ece: Tensor
    mce: Tensor


def calibration(outputs: Tensor, labels: Tensor, bins: int = 15) -> Calibration:
    """The calibration of the posterior predictive.

    Source: the errors are torchmetrics' (``norm="l1"`` and ``"max"``), after Guo et al. 2017; bins are equally wide.

    Exact when: there are many answers. Both errors are biased upwards where bins hold few: pool the answers to many
    tasks before calling.

    Args:
        outputs: Logits of every sample.
        labels: The right classes.
        bins: How many bins of confidence.

    Shapes:
        Outputs [samples, ..., classes], labels [...].

    Raises:
        ValueError: If the shapes do not fit, or ``bins`` is out of range.
        FloatingPointError: If a sample's outputs are not finite.
        ImportError: If torchmetrics is missing.
    """
    probs, labels = _answers(outputs, labels, bins)
    error = _torchmetrics().multiclass_calibration_error
    # An answer of probability zero costs a lot, not infinitely much.
    nll = F.nll_loss(probs.clamp_min(torch.finfo(probs.dtype).tiny).log(), labels)
    ece, mce = (error(probs, labels, probs.shape[-1], n_bins=bins, norm=norm) for norm in ("l1", "max"))
    return Calibration((probs.argmax(-1) == labels).to(probs.dtype).mean(), nll, ece, mce)


def calibration_intervals(
    outputs: Tensor, labels: Tensor, bins: int = 15, *, resamples: int = 200, seed: int = 0
) -> Calibration:
    """Half the width of the 95 % interval of every figure, by the bootstrap over tasks.

    Tasks are drawn with replacement, as answers to one task are not independent; an interval reaches from the 2.5 % to
    the 97.5 % quantile of the figures of such draws. The errors' own upward bias is in every draw, and not in here.

    Args:
        outputs: As for :func:`calibration`, with tasks on the second axis.
        labels: As for :func:`calibration`, with tasks on the first.
        bins: As for :func:`calibration`.
        resamples: How many draws.
        seed: Of the draws.

    Shapes:
        Outputs [samples, tasks, ..., classes], labels [tasks, ...].

    Cost: ``resamples`` times that of :func:`calibration`.

    Raises:
        ValueError, FloatingPointError, ImportError: As for :func:`calibration`.
    """
    options.integer("resamples", resamples, 200, low=2)
    draws, tasks = torch.Generator().manual_seed(seed), len(labels)
    found: list[Tensor] = []
    for _ in range(resamples):
        chosen = torch.randint(tasks, (tasks,), generator=draws).to(labels.device)
        found.append(torch.stack(calibration(outputs[:, chosen], labels[chosen], bins)))
    together = torch.stack(found)
    ends = together.quantile(together.new_tensor([0.025, 0.975]), 0)
    return Calibration(*(ends.diff(dim=0)[0] / 2))


class Reliability(NamedTuple):
    """A reliability diagram in numbers, [bins] each.

    Attributes:
        confidence: The mean confidence of the bin's answers; NaN where there are none.
        accuracy: The share of them that is right; NaN where there are none.
        share: The bin's share of all answers.
    """

    confidence: Tensor
    accuracy: Tensor
    share: Tensor


def reliability(outputs: Tensor, labels: Tensor, bins: int = 15) -> Reliability:
    """Confidence and accuracy by equally wide bins of confidence.

    Args:
        outputs: As for :func:`calibration`.
        labels: As for :func:`calibration`.
        bins: As for :func:`calibration`.

    Raises:
        ValueError, FloatingPointError: As for :func:`calibration`.
    """
    probs, labels = _answers(outputs, labels, bins)
    confidence, answer = probs.max(-1)
    edges = torch.linspace(0, 1, bins + 1, dtype=probs.dtype, device=probs.device)[1:-1]
    place = torch.bucketize(confidence, edges, right=True)
    count, sure, right = (
        torch.zeros(bins, dtype=probs.dtype, device=probs.device).index_add(0, place, values.to(probs.dtype))
        for values in (torch.ones_like(confidence), confidence, answer == labels)
    )
    return Reliability(sure / count, right / count, count / count.sum())


def _answers(outputs: Tensor, labels: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The predictive probabilities [n, classes] and the right classes [n]."""
    if outputs.ndim < 2 or outputs.shape[1:-1] != labels.shape or labels.is_floating_point():
        raise errors.not_outputs("logits [samples, ..., classes] and integer labels [...]", outputs, labels)
    options.integer("bins", bins, 15)
    broken = int((~torch.isfinite(outputs)).flatten(1).any(1).sum())
    if broken:
        raise errors.not_finite_samples(broken, len(outputs))
    probs = class_log_probabilities(outputs.detach()).exp()
    return probs.reshape(-1, outputs.shape[-1]), labels.reshape(-1)


def _torchmetrics() -> Any:
    try:
        from torchmetrics.functional import classification
    except ImportError as error:
        raise not_installed("calibration", "torchmetrics", "bayes") from error
    return classification
