"""Tables for people, tables for programs, and the look of the charts."""

from __future__ import annotations

import csv
import platform
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]

INK, ACCENT, MUTED = "#1b3a5c", "#c8553d", "#9aa5b1"
"""The colours of all charts."""


def print_table(title: str, rows: list[Row]) -> None:
    """Print the rows with aligned columns; the first column is text, the others are figures."""
    header = list(rows[0])
    cells = [[str(row[name]) for name in header] for row in rows]
    widths = [max(len(line[i]) for line in [header, *cells]) for i in range(len(header))]
    print(f"\n{title}")
    for line in [header, ["-" * w for w in widths], *cells]:
        first, *others = (
            text.ljust(w) if i == 0 else text.rjust(w)
            for i, (text, w) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())


def write_csv(path: Path, rows: list[Row]) -> None:
    """Write rows of one set of columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {path}")


def machine() -> str:
    """What figures of time and memory depend on."""
    return (
        f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), "
        f"python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )
