"""The pictures of the report, where matplotlib is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from report import ACCENT, INK, MUTED

Records = dict[str, list[dict[str, Any]]]


def draw(found: Records, out: Path) -> dict[str, str]:
    """Every picture that there are figures for; the file of each by the name of its part."""
    if find_spec("matplotlib") is None:
        return {}
    pictures = {"costs": costs, "figure4": figure4, "train": training}
    return {
        name: f"{name}.png"
        for name, picture in pictures.items()
        if saved(picture, found, out / f"{name}.png")
    }


def saved(picture: Any, found: Records, path: Path) -> bool:
    """Whether there is a picture; the tables say the same, and must not be lost for one that fails."""
    try:
        figure = picture(found)
        if figure is not None:
            figure.savefig(path, dpi=130, bbox_inches="tight")
    except Exception as error:
        print(f"no {path.name}: {type(error).__name__}: {error}")
        return False
    return figure is not None


def new(columns: int, height: float) -> tuple[Any, list[Any]]:
    """An empty picture of some panels; without a display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.5 + 5.2 * columns, height), layout="constrained")
    panels = list(figure.subplots(1, columns, squeeze=False)[0])
    for axis in panels:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, panels


def costs(found: Records) -> Any:
    """Times over that of the plain loop, of the first tables."""
    tables = [r for r in found.get("costs", []) if "table" in r][:3]
    if not tables:
        return None
    figure, panels = new(len(tables), 1.0 + 0.24 * max(len(t["rows"]) for t in tables))
    for axis, table in zip(panels, tables, strict=True):
        rows = [row for row in table["rows"] if "ms" in row]
        colours = [
            MUTED if "Loop" in r["contestant"] else ACCENT if r["contestant"].startswith("mf") else INK
            for r in rows
        ]
        bars = axis.barh([short(r["contestant"]) for r in rows], [r["ratio"] for r in rows], color=colours)
        axis.bar_label(bars, [f" {r['ratio']:.2f}  ({r['ms']:.3g} ms)" for r in rows], fontsize=7)
        axis.set(xscale="log", xlabel="time over that of the plain loop")
        low, high = min(r["ratio"] for r in rows), max(r["ratio"] for r in rows)
        axis.set_xlim(low / 2, high * (high / low) ** 0.6 * 2)
        axis.axvline(1, color=INK, linewidth=0.8, linestyle=":")
        axis.invert_yaxis()
        axis.tick_params(labelsize=7)
        axis.set_title(table["table"], fontsize=9, loc="left")
    figure.suptitle(
        "blue: others, red: metafunc, all tasks at once, grey: metafunc, tasks in turn", fontsize=8
    )
    return figure


def short(name: str) -> str:
    return name.replace("solver=CG(max_steps=5, rtol=0.0)", "5 CG").replace("mf ", "")


def figure4(found: Records) -> Any:
    """Time, memory and use of the device against L."""
    rows = next((r["figure4"] for r in found.get("figure4", []) if "figure4" in r), None)
    if rows is None:
        return None
    columns = {"ms": "time, ms", "MB": "peak of memory, MB", "busy": "share of the time that the GPU is busy"}
    columns = {key: title for key, title in columns.items() if all(key in row for row in rows)}
    figure, panels = new(len(columns), 3.4)
    for axis, (key, title) in zip(panels, columns.items(), strict=True):
        for method, colour in (("TruncMAML", ACCENT), ("BinomMAML", INK)):
            own = sorted((row["L"], row[key]) for row in rows if row["method"] == method)
            axis.plot(*zip(*own, strict=True), "o-", color=colour, label=method, markersize=4)
        axis.set(xlabel="L", xticks=sorted({row["L"] for row in rows}), ylim=(0, None))
        axis.set_title(title, fontsize=9, loc="left")
        axis.grid(linewidth=0.3)
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def training(found: Records) -> Any:
    """Accuracy on the query sets of training tasks as time goes, and on unseen classes at the end."""
    records = [r for name, own in found.items() if name.startswith("train") for r in own]
    names = list(dict.fromkeys(r["progress"] for r in records if "progress" in r))
    if not names:
        return None
    figure, (axis,) = new(1, 3.4)
    for k, (name, colour) in enumerate(zip(names, (INK, MUTED, ACCENT, "#3a7d44"), strict=False)):
        own = [(r["seconds"], 100 * r["accuracy"]) for r in records if r.get("progress") == name]
        axis.plot(*zip(*own, strict=True), "-", color=colour, label=name, linewidth=1.2)
        for r in (r for r in records if r.get("trained") == name):
            beside = r["seconds"] * (1 + 0.02 * (k + 1))  # else the dots of all methods lie on each other
            axis.errorbar(beside, r["accuracy"], r["interval"], fmt="o", color=colour, capsize=3)
    axis.set(xlabel="seconds", ylabel="accuracy, %")
    axis.set_title(
        "lines: query sets of training tasks; dots: unseen classes, with 95 % interval",
        fontsize=8,
        loc="left",
    )
    axis.legend(frameon=False, fontsize=8)
    axis.grid(linewidth=0.3)
    return figure
