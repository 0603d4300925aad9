"""Tests that run on the CPU and on a GPU, or on a GPU alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.cuda,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
        # What a version of torch warns of on a GPU is not known here, and is not what these tests are about.
        pytest.mark.filterwarnings("default"),
    ],
)


def on_devices(*names: str) -> pytest.MarkDecorator:
    """Run a test with ``device`` as each of these; for ``"cuda"`` with its marker, where there is one."""
    return pytest.mark.parametrize("device", [CUDA if name == "cuda" else name for name in names])


@contextmanager
def without_waiting() -> Iterator[None]:
    """Within it a GPU raises where the host waits for it."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
