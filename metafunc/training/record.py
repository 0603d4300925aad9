"""Figures of a run, in CSV files that one can open while it goes on, and for TensorBoard."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from metafunc.data.files import write_atomically
from metafunc.errors import not_installed
from metafunc.training import errors


class Table:
    """A CSV file with a row for each of some steps.

    Args:
        path: The file.
        rows: How many rows the run's checkpoint knows of. Those after them, and what a kill left of one, are dropped:
            the run goes on from there.

    Raises:
        ValueError: If the file has another form.
    """

    def __init__(self, path: Path, rows: int) -> None:
        self._path = path
        self.kept = _read_to_go_on(path)[:rows] if rows and os.path.lexists(path) else []
        self.rows = len(self.kept)
        self._columns = list(self.kept[0]) if self.kept else []
        if self.kept:
            self._rewrite(self.kept)
        else:
            path.unlink(missing_ok=True)

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends a row. Figures that no row had before get a column of their own."""
        columns = [*self._columns, *(name for name in row if name not in self._columns)]
        if columns != self._columns:
            self._columns = columns
            self._rewrite([*(read(self._path) if self.rows else []), row])
        else:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, columns).writerow(row)
        self.rows += 1

    def sync(self) -> None:
        """Returns when all rows are on the disk."""
        if self.rows:
            with self._path.open("ab") as file:
                os.fsync(file.fileno())

    def _rewrite(self, rows: list[Any]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self._path, lambda file: file.write(text.getvalue().encode()))


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, without one that is just being written."""
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if None not in row and None not in row.values()]


def outcomes(names: Iterable[str]) -> list[str]:
    """The columns that say how well the learner does; those after them say how that came about."""
    return [
        n
        for n in takewhile(lambda name: name != "grad_norm", names)
        if n not in ("step", "seconds", "skipped")
    ]


def _read_to_go_on(path: Path) -> list[dict[str, str]]:
    try:
        rows = read(path)
        _ = [int(row["step"]) for row in rows]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        reason = "there is no column step" if isinstance(error, KeyError) else str(error)
        raise errors.not_readable(path, "a table with a column of steps", reason) from error
    return rows


class Board:
    """TensorBoard's event file in a folder.

    Args:
        folder: That of the run.
        suffix: Ends the file's name.
        last: The step that the run has reached. What earlier files have for it and later ones is purged.
    """

    def __init__(self, folder: Path, suffix: str, last: int) -> None:
        self._writer = writer_type()(str(folder), purge_step=last, filename_suffix=f".{suffix}")

    def add(self, group: str, row: Mapping[str, Any]) -> None:
        """One point for each figure of a row with a "step"."""
        for name, value in row.items():
            if name not in ("step", "seconds") and value != "":
                self._writer.add_scalar(f"{group}/{name}", float(value), int(row["step"]))
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()


def writer_type() -> Any:
    """TensorBoard's writer of event files.

    Raises:
        ImportError: If the package is missing.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise not_installed("tensorboard", "tensorboard", "train", "pass tensorboard=False") from error
    return SummaryWriter
