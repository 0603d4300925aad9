"""What the scripts of this folder share: options, a table on the terminal, a CSV file, a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What every script takes from the command line."""

    quick: bool = False  # A smaller run, in seconds.
    out: Path = Path("runs/papers")  # Where the folder with the table and the picture goes.

    def settings_of(self, *names: str) -> dict[str, Any]:
        """What a training that goes on must have in common with what it was: these options."""
        return {name: getattr(self, name) for name in names}


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write the numbers behind a picture; a row may lack columns that others have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {path}")


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Print rows with equal columns."""
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(f"{x:.3g}" if isinstance(x, float) else str(x) for x in row.values()))
    Console(width=120).print(table)


def save(figure: Any, path: Path) -> None:
    """Write a picture made without a display."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, bbox_inches="tight")
    print(f"wrote {path}")


def name_ends(axis: Any, ends: dict[str, tuple[float, float]], colours: dict[str, str]) -> None:
    """Write every line's name beside its last point, higher where it would cover the name below."""
    low, high = np.log10(axis.get_ylim())
    gap, floor = (high - low) / 20, -np.inf
    right = max(x for x, _ in ends.values())
    place = right * 1.15 if axis.get_xscale() == "log" else right * 1.02
    for name, (_, y) in sorted(ends.items(), key=lambda item: item[1][1]):
        height = max(np.log10(y), floor)
        style = {"color": colours[name], "va": "center", "fontsize": 9, "annotation_clip": False}
        axis.annotate(name, (place, 10**height), **style)
        floor = height + gap


def lines(
    rows: Sequence[Row], by: str, against: str, label: str, columns: dict[str, str], styles: dict[str, Row]
) -> Figure:
    """A panel for each column (its name and title), a line for each style, from zero on."""
    figure = Figure(figsize=(0.5 + 4.6 * len(columns), 3.8), layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for axis, (column, title) in zip(panels, columns.items(), strict=True):
        for name, style in styles.items():
            own = [(row[against], row[column]) for row in rows if row[by] == name]
            axis.plot(
                *zip(*own, strict=True), "o", **{"linestyle": "-", "markersize": 4, **style}, label=name
            )
        axis.set(xlabel=label, ylim=(0, 1.05 * max(row[column] for row in rows)))
        axis.set_title(title, fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(linewidth=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of a straight line through the points on logarithmic axes."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def verdict(claims: dict[str, bool]) -> None:
    """Print whether each claim holds in what was measured."""
    for claim, holds in claims.items():
        print(f"{'holds' if holds else 'DOES NOT HOLD'}: {claim}")
