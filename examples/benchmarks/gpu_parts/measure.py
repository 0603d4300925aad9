"""Time, memory and use of a device, for a call."""

from __future__ import annotations

import gc
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from report import Row
from torch.autograd import DeviceType

import metafunc as mf

Call = Callable[[], object]


class Part:
    """What a part is given: where to run, until when, how small, and where its figures go, line by line."""

    def __init__(self, device: str, seconds: float, quick: bool, out: Path, **options: Any) -> None:
        self.device, self.quick, self.options = device, quick, options
        self.out, self._end = out, time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    def at_most(self, seconds: float) -> float:
        """So many of the seconds that are left; of a quick run, whose rounds are few, as many as it takes."""
        return self.left if self.quick else max(min(self.left, seconds), 1.0)

    def write(self, **record: Any) -> None:
        """Nothing that comes later can take this line away."""
        with self.out.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def table(self, title: str, rows: list[Row], note: str = "") -> None:
        """A table for the report."""
        self.write(table=title, rows=rows, note=note)


def milliseconds(fn: Call, device: str) -> float:
    """How long the device is at it, from an idle start to the end of the last kernel."""
    if device == "cpu":
        start = time.perf_counter()
        fn()
        return 1e3 * (time.perf_counter() - start)
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    fn()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def in_turns(
    runs: dict[str, Call], device: str, seconds: float, most: int = 50
) -> tuple[dict[str, list[float]], dict[str, float], dict[str, str]]:
    """Milliseconds of every call, the peak of the allocator above what it held before in megabytes, and what failed.

    The calls take turns, in a new order each round. One that takes more than its share of the time gets fewer rounds,
    and one for which no time is left at all gets none.
    """
    end, share = time.monotonic() + seconds, 1e3 * seconds / len(runs)
    times: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name, run in runs.items():
        if times and time.monotonic() > end:
            failed[name] = "no time was left"
            continue
        found: list[float] = []

        def timed(run: Call = run, found: list[float] = found) -> None:
            found.append(milliseconds(run, device))

        try:
            run()  # what only a first call does is not counted
            peaks[name] = mf.peak_memory(timed, device) / 1e6
        except Exception as error:  # out of memory, most of all: that is then the result for this row
            failed[name] = f"{type(error).__name__}: {str(error)[:80]}"
            if device != "cpu":
                torch.cuda.empty_cache()
            continue
        times[name] = found if found[0] > share else []
    gc.collect()
    order, chance = [name for name in times if not times[name]], random.Random(0)
    for k in range(most):
        chance.shuffle(order)
        for name in order:
            if k == 0 or time.monotonic() < end:
                times[name].append(milliseconds(runs[name], device))
    return times, peaks, failed


def activity(fn: Call) -> tuple[int, float]:
    """How many kernels a call launches on a GPU, and how many milliseconds at least one of them runs."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as recorder:
        fn()
        torch.cuda.synchronize()
    events = [e for e in recorder.events() if e.device_type == DeviceType.CUDA]
    kernels = [e for e in events if not e.name.startswith(("Memcpy", "Memset"))]
    return len(kernels), covered([(e.time_range.start, e.time_range.end) for e in events]) / 1e3


LONG = 500.0
"""Milliseconds from which on a call has so many kernels that to look at each would take the time of others."""


def covered(spans: list[tuple[float, float]]) -> float:
    """The length of what some of the spans cover."""
    length, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        length += max(0.0, end - max(start, until))
        until = max(until, end)
    return length


def rows_of(
    part: Part,
    runs: dict[str, Call],
    seconds: float,
    *,
    baseline: str,
    factors: dict[str, float] | None = None,
) -> list[Row]:
    """A row for each call: its median time, that over the baseline's, its memory, its kernels, and how busy they keep
    the device. ``factors`` are for calls that do a part of the work only."""
    times, peaks, failed = in_turns(runs, part.device, 0.8 * seconds, 3 if part.quick else 50)
    factors = factors or {}
    median = {name: factors.get(name, 1.0) * statistics.median(ms) for name, ms in times.items()}
    rows: list[Row] = []
    for name in times:
        row: Row = {"contestant": name, "ms": median[name]}
        row["ratio"] = median[name] / median[baseline] if baseline in median else None
        row |= {"rounds": len(times[name]), "MB": peaks[name]}
        if part.device != "cpu" and name not in factors and median[name] < LONG and part.left > 1:
            try:
                kernels, busy = activity(runs[name])
                row |= {"kernels": kernels, "busy": busy / median[name]}
            except RuntimeError as error:  # not every machine lets one look
                row["kernels"] = type(error).__name__
        rows.append(row)
    return rows + [{"contestant": f"{name} ({why})"} for name, why in failed.items()]
