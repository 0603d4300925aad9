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
from torch.autograd import DeviceType

import metafunc as mf

Call = Callable[[], object]
Row = dict[str, Any]


class Part:
    """What a part is given: where to run, until when, how small, and where its figures go, line by line."""

    def __init__(self, device: str, seconds: float, quick: bool, out: Path, **options: Any) -> None:
        self.device, self.quick, self.options = device, quick, options
        self.out, self._end = out, time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

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
    runs: dict[str, Call], device: str, seconds: float, most: int = 50, clock: Any = milliseconds
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Milliseconds of every call, and the peak of the allocator above what it held before, in megabytes.

    The calls take turns, in a new order each round. One that takes more than its share of the time gets fewer rounds;
    those for which no time is left at all are not among the results.
    """
    end, share = time.monotonic() + seconds, 1e3 * seconds / len(runs)
    times: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    for name, run in runs.items():
        if times and time.monotonic() > end:
            break
        run()  # what only a first call does is not counted
        found: list[float] = []
        peaks[name] = (
            mf.peak_memory(lambda run=run, found=found: found.append(clock(run, device)), device) / 1e6
        )
        times[name] = found if found[0] > share else []
    gc.collect()
    order, chance = [name for name in times if not times[name]], random.Random(0)
    for k in range(most):
        chance.shuffle(order)
        for name in order:
            if k == 0 or time.monotonic() < end:
                times[name].append(clock(runs[name], device))
    return times, peaks


def activity(fn: Call, device: str) -> tuple[int, float] | None:
    """How many kernels a call launches, and how many milliseconds at least one of them runs; ``None`` on a CPU."""
    if device == "cpu":
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorder:
        fn()
        torch.cuda.synchronize()
    events = [e for e in recorder.events() if e.device_type == DeviceType.CUDA]
    kernels = [e for e in events if not e.name.startswith(("Memcpy", "Memset"))]
    busy = until = 0.0
    for start, end in sorted((e.time_range.start, e.time_range.end) for e in events):
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return len(kernels), busy / 1e3


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
    times, peaks = in_turns(runs, part.device, 0.8 * seconds, 3 if part.quick else 50)
    factors = factors or {}
    median = {name: factors.get(name, 1.0) * statistics.median(ms) for name, ms in times.items()}
    rows: list[Row] = []
    for name in times:
        row: Row = {"contestant": name, "ms": median[name], "ratio": median[name] / median[baseline]}
        row |= {"rounds": len(times[name]), "MB": peaks[name]}
        used = None if name in factors or part.left < 1 else activity(runs[name], part.device)
        if used is not None:
            row |= {"kernels": used[0], "busy": used[1] / median[name]}
        rows.append(row)
    rows += [{"contestant": f"{name} (no time was left)"} for name in runs if name not in times]
    return rows
