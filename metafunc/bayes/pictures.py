"""Pictures of uncertainty: the reliability diagram of a classifier, and the bands of a regression."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metafunc.bayes import errors
from metafunc.bayes.calibration import calibration, reliability
from metafunc.bayes.predict import Predictive
from metafunc.errors import not_installed

_DARK, _PALE, _GOOD, _BAD = "#22313f", "#c3cdd4", "#2a9d8f", "#e4572e"


def draw_reliability(
    answers: Mapping[str, tuple[Tensor, Tensor]], path: str | Path, *, bins: int = 15
) -> Path:
    """Draws accuracy against confidence, a panel for each classifier, and below it where its answers lie.

    A calibrated classifier's bars end on the diagonal. Red is what is missing: answers that are right less often than
    their confidence promises; a bar above the diagonal is too modest.

    Args:
        answers: By name ``(outputs, labels)`` as for :func:`calibration`.
        path: Where the picture goes.
        bins: How many bins of confidence.

    Raises:
        ValueError, FloatingPointError: As for :func:`calibration`, or if there is nothing to draw.
        ImportError: If matplotlib is missing.
    """
    if not answers:
        raise errors.out_of_range(
            "answers", answers, "at least one classifier", "pass {name: (outputs, labels)}"
        )
    figure = _figure()(figsize=(3.6 * len(answers) + 0.4, 4.6), layout="constrained")
    grid = figure.subplots(2, len(answers), squeeze=False, sharex=True, sharey="row", height_ratios=(4, 1))
    for column, (name, (outputs, labels)) in enumerate(answers.items()):
        top, bottom = grid[0][column], grid[1][column]
        found, scores = reliability(outputs, labels, bins), calibration(outputs, labels, bins)
        confidence, accuracy, share = (x.cpu().nan_to_num(0).numpy() for x in found)
        centres, width = ((torch.arange(bins) + 0.5) / bins).numpy(), 0.92 / bins
        top.bar(centres, accuracy, width, color=_GOOD, label="accuracy")
        missing = (confidence - accuracy).clip(0)
        top.bar(centres, missing, width, bottom=accuracy, color=_BAD, alpha=0.35, label="overconfidence")
        top.plot([0, 1], [0, 1], "--", color=_DARK, linewidth=1, label="calibrated")
        top.set_title(
            f"{name}\nECE {scores.ece:.3f}   MCE {scores.mce:.3f}   nll {scores.nll:.3f}", fontsize=9
        )
        bottom.bar(centres, share, width, color=_PALE)
        bottom.set(xlabel="confidence", xlim=(0, 1))
        for axes in (top, bottom):
            axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set(ylabel="accuracy", ylim=(0, 1))
    grid[1][0].set_ylabel("share")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return _saved(figure, path)


def draw_bands(
    axes: Any, x: Tensor, predictive: Predictive, *, color: str = _DARK, label: str = "mean"
) -> None:
    """Draws a predictive mean with bands of two standard deviations onto matplotlib's axes.

    The inner band is what the posterior does not know, the outer one has the noise of observations on top.

    Args:
        axes: Matplotlib's axes.
        x: Inputs, in ascending order.
        predictive: From :func:`regression`.
        color: Of line and bands.
        label: Of the line, in a legend.

    Shapes:
        All of them with as many numbers as ``x``.
    """
    at = x.detach().flatten().cpu().numpy()
    mean, std, spread = (v.detach().flatten().cpu().numpy() for v in predictive)
    axes.fill_between(at, mean - 2 * std, mean + 2 * std, color=color, alpha=0.12, linewidth=0)
    axes.fill_between(at, mean - 2 * spread, mean + 2 * spread, color=color, alpha=0.22, linewidth=0)
    axes.plot(at, mean, color=color, linewidth=1.5, label=label)


def _saved(figure: Any, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise not_installed("pictures", "matplotlib", "bayes") from error
    return Figure
