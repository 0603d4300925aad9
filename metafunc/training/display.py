"""What a run shows on the terminal."""

from __future__ import annotations

from typing import Any

from metafunc.errors import not_installed
from metafunc.training.record import outcomes


class Display:
    """A progress bar with rate and remaining time on a terminal, and lines that stay, on standard error.

    Args:
        steps: How many meta-steps the run has in all.
        show: Whether anything is shown at all.
    """

    def __init__(self, steps: int, show: bool) -> None:
        self._progress: Any = None
        self._steps = steps
        if not show:
            return
        try:
            from rich import progress
            from rich.console import Console
        except ImportError as error:
            raise not_installed("show", "rich", "train", "pass show=False") from error
        columns: list[Any] = [
            "[progress.description]{task.description}",
            progress.BarColumn(None),
            progress.MofNCompleteColumn(),
            "{task.fields[figures]}",
            _rate_column(progress),
            progress.TimeRemainingColumn(),
        ]
        self._progress = progress.Progress(*columns, console=Console(stderr=True), expand=True)

    def __enter__(self) -> Display:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def begin(self, done: int) -> None:
        """Shows the bar, with what an earlier part of the run has made of it."""
        if self._progress is not None:
            self._task = self._progress.add_task(
                "meta-training", total=self._steps, completed=done, figures=""
            )

    def advance(self, step: int) -> None:
        """Moves the bar."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def figures(self, row: dict[str, float]) -> None:
        """Shows the latest figures of training beside the bar."""
        if self._progress is not None:
            text = "  ".join(f"{name} {row[name]:.3f}" for name in outcomes(row))
            self._progress.update(self._task, figures=text)

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        if self._progress is not None:
            self._progress.console.print(text, highlight=False)


def _rate_column(progress: Any) -> Any:
    from rich.text import Text

    class Rate(progress.ProgressColumn):
        """Meta-steps a second, of late."""

        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:.2f} steps/s" if task.speed else "")

    return Rate()
