"""The report: everything that the parts have written so far."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from report import Row

Record = dict[str, Any]
TITLES = {
    "checks": "Checks on the device",
    "costs": "What a meta-gradient costs",
    "figure4": "Figure 4 of binommaml",
    "train": "Training in minutes",
    "jax": "JAX",
    "compiled": "torch.compile",
}
COLUMNS = {"MB": "peak MB", "ms": "median ms", "busy": "busy share"}


def machine(device: str, missing: list[str], quick: bool) -> Record:
    """What figures of time and memory depend on."""
    import torch

    found: Record = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "device": device,
    }
    if device != "cpu":
        card = torch.cuda.get_device_properties(device)
        found["device"] = f"{card.name}, {card.total_memory / 2**30:.0f} GiB"
        found["CUDA"] = f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    found["not installed, and left out"] = ", ".join(missing) or "nothing"
    if quick:
        found["sizes"] = "tiny (--quick): these figures say only that the command works"
    return found


class Page:
    """``report.md`` and ``report.json``, written anew whenever a part has written something."""

    def __init__(self, out: Path, machine: Record, parts: list[str]) -> None:
        self.out, self.machine = out, machine
        self.states: dict[str, tuple[str, float]] = dict.fromkeys(parts, ("not begun", 0.0))
        self._seen = 0

    def begun(self, name: str) -> None:
        """A part runs from now on."""
        self.states[name] = ("running", 0.0)
        self.write()
        print(f"{name} ...", flush=True)

    def ended(self, name: str, state: str, seconds: float) -> None:
        """How a part has ended."""
        self.states[name] = (state, seconds)
        self.write()
        print(f"{name}: {state}, {seconds:.0f} s", flush=True)

    def look(self) -> None:
        """Write if there is something new."""
        seen = sum(path.stat().st_size for path in self.out.glob("*.jsonl"))
        if seen != self._seen:
            self._seen = seen
            self.write()

    def records(self, name: str) -> list[Record]:
        """What a part has written; a line that is not whole yet is left for the next time."""
        path = self.out / f"{name}.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def write(self, pictures: bool = False) -> None:
        """Both files, each of which is the old one until it is whole."""
        found = {name: self.records(name) for name in self.states}
        images: dict[str, str] = {}
        if pictures:
            from gpu_parts.pictures import draw

            images = draw(found, self.out)
        states = [{"part": n, "state": s, "seconds": t} for n, (s, t) in self.states.items()]
        whole = {"machine": self.machine, "parts": states, "records": found}
        replace(self.out / "report.json", json.dumps(whole, indent=1))
        lines = ["# What this device says of metafunc", ""]
        lines += [f"- {key}: {value}" for key, value in self.machine.items()]
        lines += ["", *markdown(states)]
        for key, title in TITLES.items():
            own = {name: found[name] for name in found if name.split("-")[0] == key}
            body = [line for name, records in own.items() for line in section(name, records)]
            if key == "train":
                body = trained([r for records in own.values() for r in records])
            if body or key in images:
                lines += [
                    "",
                    f"## {title}",
                    *([f"\n![{title}]({images[key]})"] if key in images else []),
                    *body,
                ]
        replace(self.out / "report.md", "\n".join(lines) + "\n")


def replace(path: Path, text: str) -> None:
    """Write a file that nobody sees half written."""
    half = path.with_suffix(path.suffix + ".part")
    half.write_text(text)
    half.replace(path)


def section(name: str, records: list[Record]) -> list[str]:
    """The body of a part's section."""
    if name == "checks":
        return tested(records)
    lines: list[str] = []
    for record in records:
        if "agreement" in record:
            count, worst = record["exact"], record["worst"]
            lines += [
                "",
                f"On {record['agreement']} {count} exact contestants agree in double precision to {worst:.0e}.",
            ]
        if "table" in record:
            lines += ["", f"### {record['table']}", "", *markdown(record["rows"])]
        if record.get("note"):
            lines += ["", record["note"]]
    return lines


def tested(records: list[Record]) -> list[str]:
    """Counts, what failed and why, and what was noted."""
    tests = [r for r in records if "test" in r]
    if not tests:
        return []
    count = {o: sum(r["outcome"] == o for r in tests) for o in ("passed", "failed", "skipped")}
    whole = any("ended" in r for r in records)
    lines = [
        "",
        ", ".join(f"{n} {o}" for o, n in count.items())
        + ("." if whole else "; the time was over before the last."),
    ]
    failed = [r for r in tests if r["outcome"] == "failed"]
    lines += [""] * bool(failed)
    lines += [f"- FAILED `{r['test']}`: {r.get('message', '')}" for r in failed[:40]]
    lines += [f"- and {len(failed) - 40} more, in report.json"] if len(failed) > 40 else []
    noted = [r for r in tests if r.get("noted")]
    lines += (
        ["", *markdown([{"test": r["test"].split("::")[-1]} | r["noted"] for r in noted])] if noted else []
    )
    return lines


def trained(records: list[Record]) -> list[str]:
    """A row for each method; of one that did not come to its test, how far it came."""
    done = {r["trained"]: r for r in records if "trained" in r}
    going = {r["progress"]: r for r in records if "progress" in r and r["progress"] not in done}
    rows: list[Row] = []
    for name, r in (done | going).items():
        row: Row = {"method": name, "seconds": r["seconds"], "meta-steps": r["steps"]}
        if name in done:
            row |= {
                "test accuracy, %": f"{r['accuracy']:.2f} ± {r['interval']:.2f}",
                "test tasks": r["tasks"],
            }
            row |= {"imaml's Table 2": r["paper"]} if r["omniglot"] else {}
        else:
            row["test accuracy, %"] = f"stopped at {100 * r['accuracy']:.0f} in training"
        rows.append(row)
    if not done:
        return ["", *markdown(rows)] if rows else []
    paper = "The paper's figures are after some 60,000 meta-steps."
    letters = "On the letters that ship with metafunc; `--data` takes Omniglot."
    return ["", *markdown(rows), "", paper if next(iter(done.values()))["omniglot"] else letters]


def markdown(rows: list[Row]) -> list[str]:
    """A table; columns in which no row has anything are left out."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    names = [n for n in names if any(row.get(n) is not None for row in rows)]
    head = [COLUMNS.get(n, n) for n in names]
    figures = [not isinstance(next(row[n] for row in rows if row.get(n) is not None), str) for n in names]
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join("---:" if f else "---" for f in figures) + "|"]
    return lines + ["| " + " | ".join(cell(n, row.get(n)) for n in names) + " |" for row in rows]


def cell(name: str, value: Any) -> str:
    """A value as people read it."""
    if value is None:
        return ""
    if isinstance(value, str | int):
        return str(value).replace("|", "/")
    if name == "busy":
        return f"{100 * value:.0f} %"
    if name == "seconds":
        return f"{value:.0f}"
    if name == "from the loop":
        return f"{value:.0e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
