"""Whether probabilities can be believed."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metafunc import options
from metafunc.bayes import errors
from metafunc.bayes.predict import class_log_probabilities


class Calibration(NamedTuple):
    """Figures of a classifier's answers, without axes.

    Attributes:
        accuracy: The share of right answers.
        nll: The mean negative log-likelihood of the right classes under the posterior predictive, in nats.
        ece: The expected calibration error: the mean over the bins of :func:`reliability`, by their number of
            answers, of the distance between confidence and accuracy.
        mce: The maximum calibration error: the largest such distance of a bin, however few answers it has.
    """

    accuracy: Tensor
    nll: Tensor
    ece: Tensor
    mce: Tensor


def calibration(outputs: Tensor, labels: Tensor, bins: int = 15) -> Calibration:
    """The calibration of the posterior predictive.

    Source: Guo et al. 2017; the bins are equally wide, and a confidence of 1 belongs to the last.

    Exact when: there are many answers. Both errors are biased upwards where bins hold few: pool the answers to many
    tasks before calling.

    Args:
        outputs: Logits of every sample.
        labels: The right classes.
        bins: How many bins of confidence.

    Shapes:
        Outputs [samples, ..., classes], labels [...]; figures in double precision.

    Raises:
        ValueError: If the shapes do not fit, there are no answers, a label is no class, or ``bins`` is out of range.
        FloatingPointError: If a sample's outputs are not finite.
    """
    logs, labels = _answers(outputs, labels, bins)
    diagram = _diagram(logs, labels, bins)
    gaps = (diagram.confidence - diagram.accuracy).abs().nan_to_num(0.0)
    right = (logs.argmax(-1) == labels).to(logs.dtype)
    return Calibration(right.mean(), F.nll_loss(logs, labels), (gaps * diagram.share).sum(), gaps.max())


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

    Returns:
        NaN for a single task, which says nothing of how tasks differ.

    Shapes:
        Outputs [samples, tasks, ..., classes], labels [tasks, ...].

    Cost: ``resamples`` times that of :func:`calibration`.

    Raises:
        ValueError, FloatingPointError: As for :func:`calibration`.
    """
    options.integer("resamples", resamples, 200, low=2)
    options.integer("seed", seed, 0, low=0)
    draws, tasks = torch.Generator().manual_seed(seed), len(labels)
    if tasks == 1:
        return Calibration(*(torch.full_like(x, torch.nan) for x in calibration(outputs, labels, bins)))
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
    return _diagram(*_answers(outputs, labels, bins), bins)


def _diagram(logs: Tensor, labels: Tensor, bins: int) -> Reliability:
    likeliest, answer = logs.max(-1)
    confidence = likeliest.exp()
    edges = torch.linspace(0, 1, bins + 1, dtype=logs.dtype, device=logs.device)[1:-1]
    place = torch.bucketize(confidence, edges, right=True)
    count, sure, right = (
        torch.zeros(bins, dtype=logs.dtype, device=logs.device).index_add(0, place, values.to(logs.dtype))
        for values in (torch.ones_like(confidence), confidence, answer == labels)
    )
    return Reliability(sure / count, right / count, count / count.sum())


def _answers(outputs: Tensor, labels: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The predictive log-probabilities [n, classes] and the right classes [n], in a precision that can count."""
    if outputs.ndim < 2 or outputs.shape[1:-1] != labels.shape or labels.is_floating_point():
        raise errors.not_outputs("logits [samples, ..., classes] and integer labels [...]", outputs, labels)
    options.integer("bins", bins, 15)
    broken = int((~torch.isfinite(outputs)).flatten(1).any(1).sum())
    if broken:
        raise errors.not_finite_samples(broken, len(outputs))
    classes, labels = outputs.shape[-1], labels.reshape(-1).long()
    strange = (labels < 0) | (labels >= classes)
    if strange.any() or not len(labels):
        raise errors.not_labels(classes, labels[strange].tolist())
    return class_log_probabilities(outputs.detach().double()).reshape(-1, classes), labels
