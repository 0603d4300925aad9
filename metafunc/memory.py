"""The memory that a computation needs."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.profiler import profile

from metafunc import errors, options


def peak_memory(fn: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """The most that torch's allocator holds at any time during ``fn()``, above what it held before, in bytes.

    On the CPU every allocation and release that torch's profiler sees is added up in the order of time; what
    numpy or a library takes by itself does not count, nor do other threads. On CUDA it is the allocator's own
    peak. (Some versions of torch write two lines to stderr whenever the profiler runs, unless KINETO_LOG_LEVEL
    is set to 6 in the environment.)

    Args:
        fn: Is called once, and its result counts. Call it before, or what only a first call allocates counts too.
        device: Whose memory: the CPU's or a CUDA device's.

    Raises:
        ValueError: For another kind of device.
    """
    options.function("fn", fn, "fn()")
    options.instance("device", device, (str, torch.device), "a torch.device, or its name")
    device = torch.device(device)
    if device.type not in ("cpu", "cuda"):
        raise errors.out_of_range("device", device, "the CPU or a CUDA device", "where there is a measure")
    gc.collect()  # what earlier calls left behind is not to be released, and so subtracted, during this one
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        fn()
        return torch.cuda.max_memory_allocated(device) - before
    recorder: Any = profile(profile_memory=True)
    with recorder:
        fn()
    events = recorder.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    held = peak = 0
    for _, change in sorted(changes, key=lambda at: at[0]):
        held += change
        peak = max(peak, held)
    return peak
