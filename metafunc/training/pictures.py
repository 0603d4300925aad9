"""Pictures of a run: its curves, and a task with what was made of it."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import Tensor

from metafunc.errors import not_installed
from metafunc.training import record

_DARK, _PALE, _GOOD, _BAD = "#22313f", "#c3cdd4", "#2a9d8f", "#e4572e"


def draw_curves(folder: str | Path, *, chance: float | None = None) -> Path:
    """Draws every figure of a run against meta-steps, training pale and smoothed, validation with its 95 % interval.

    Args:
        folder: That of the run; it may still be going on.
        chance: The accuracy of guessing, drawn as a line.

    Returns:
        The picture, ``curves.png`` in the folder.

    Raises:
        FileNotFoundError: If there is no run in the folder.
        ImportError: If matplotlib is missing.
    """
    folder = Path(folder)
    figure_type = _figure()
    trained, validated = _columns(folder / "training.csv"), {}
    if (folder / "validation.csv").exists():
        validated = _columns(folder / "validation.csv")
    names = record.outcomes(trained)
    figure = figure_type(figsize=(6 * len(names), 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        axes.plot(trained["step"], trained[name], color=_PALE, linewidth=0.8)
        axes.plot(trained["step"], _smooth(trained[name]), color=_DARK, label="training, smoothed")
        if name in validated:
            x, mean, interval = (validated[key] for key in ("step", name, f"{name}_interval"))
            axes.errorbar(x, mean, interval, fmt="o-", color=_GOOD, capsize=3, label="validation, 95 %")
        if chance is not None and name == "accuracy":
            axes.axhline(chance, color=_BAD, linestyle="--", linewidth=1, label="chance")
        axes.set(xlabel="meta-steps", ylabel=name)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    path = folder / "curves.png"
    figure.savefig(path, dpi=110)
    return path


def draw_episode(
    support: tuple[Tensor, Tensor], query: tuple[Tensor, Tensor], answers: Tensor, path: str | Path
) -> Path:
    """Draws a task of classification: on the left what it is learnt from, on the right queries, framed by the answer.

    Args:
        support: Images [n, channels, height, width] with bytes scaled to 0..1, and labels [n].
        query: The same, of the query set.
        answers: The labels that were given to the queries, [n].
        path: Where the picture goes.

    Returns:
        The path. A green frame is a right answer; a red one a wrong one, with the class that was named beneath.

    Raises:
        ImportError: If matplotlib is missing.
    """
    figure_type = _figure()
    ways = int(support[1].max()) + 1
    shots, shown = int((support[1] == 0).sum()), min(8, int((query[1] == 0).sum()))
    figure = figure_type(figsize=(0.9 * (shots + shown) + 0.6, 1.05 * ways + 0.5), layout="constrained")
    grid = figure.subplots(ways, shots + shown, squeeze=False)
    for label, row in enumerate(grid):
        mine = query[1] == label
        _tiles(row[:shots], support[0][support[1] == label], [_DARK] * shots, [""] * shots)
        right = answers[mine] == label
        texts = ["" if good else f"class {int(a)}" for good, a in zip(right, answers[mine], strict=True)]
        _tiles(row[shots:], query[0][mine], [_GOOD if good else _BAD for good in right], texts)
        row[0].set_ylabel(f"class {label}", color=_DARK, fontsize=9)
    share = (answers == query[1]).float().mean().item()
    figure.suptitle(
        f"Learnt from the first {shots} in each row; {share:.0%} of the queries right", fontsize=10
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _tiles(row: Any, images: Tensor, colours: list[str], texts: list[str]) -> None:
    for axes, image, colour, text in zip(row, images, colours, texts, strict=False):
        pixels = image.cpu().movedim(0, -1).clamp(0, 1).numpy()
        axes.imshow(1 - pixels if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(text, color=_BAD, fontsize=7, labelpad=2)
        for spine in axes.spines.values():
            spine.set(edgecolor=colour, linewidth=2.5)


def _columns(path: Path) -> dict[str, list[float]]:
    rows = record.read(path)
    return {name: [float(row[name] or "nan") for row in rows] for name in (rows[0] if rows else {})}


def _smooth(values: list[float]) -> list[float]:
    """Means over a fortieth of the run to either side."""
    reach = max(1, len(values) // 40)
    sums = list(accumulate(values, initial=0.0))
    ends = [(max(0, i - reach), min(len(values), i + reach + 1)) for i in range(len(values))]
    return [(sums[high] - sums[low]) / (high - low) for low, high in ends]


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise not_installed("pictures", "matplotlib", "train", "read the CSV files instead") from error
    return Figure
