"""Figures of a run, in CSV files that one can open while it goes on, and for TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metafunc.errors import not_installed


class Table:
    """A CSV file with a row for each of some steps; its columns are those of the first row.

    Args:
        path: The file. Rows that it has for steps after ``last`` are dropped: the run goes on from there.
        last: The step that the run has reached.
    """

    def __init__(self, path: Path, last: int) -> None:
        self._path = path
        self._columns: list[str] = []
        rows = read(path) if path.exists() else []
        kept = [row for row in rows if int(row["step"]) <= last]
        if kept:
            self._columns = list(kept[0])
        if rows != kept:
            self._write(kept, "w")

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends a row, on disk when this returns."""
        new = not self._columns
        if new:
            self._columns = list(row)
        self._write([row], "w" if new else "a")

    def _write(self, rows: list[Any], mode: str) -> None:
        with self._path.open(mode, newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            if mode == "w" and self._columns:
                writer.writeheader()
            writer.writerows(rows)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Board:
    """TensorBoard's event file in a folder; steps after ``last`` that an earlier part of the run wrote are purged."""

    def __init__(self, folder: Path, last: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise not_installed("tensorboard", "tensorboard", "train", "pass tensorboard=False") from error
        self._writer = SummaryWriter(str(folder), purge_step=last + 1)

    def add(self, group: str, row: Mapping[str, Any]) -> None:
        """One point for each figure of a row with a "step"."""
        for name, value in row.items():
            if name not in ("step", "seconds"):
                self._writer.add_scalar(f"{group}/{name}", value, int(row["step"]))
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()
