"""The peak of the allocator is that of known allocations."""

from __future__ import annotations

import pytest
import torch

from metafunc import peak_memory
from tests.devices import on_devices


def test_peak_memory_of_known_allocations() -> None:
    def allocate() -> torch.Tensor:
        a = torch.empty(1_000_000)  # 8 MB held
        b = a + a  # 16
        del a  # 8
        c = torch.cat([b, b])  # 24, the peak
        del b  # 16
        return c[:10].clone()

    allocate()
    assert peak_memory(allocate) == pytest.approx(24e6, rel=0.1)


def test_peak_memory_counts_from_what_was_held_before() -> None:
    held = torch.ones(3_000_000)
    assert peak_memory(lambda: None) == 0
    assert peak_memory(lambda: held[:1_000_000] * 2) == pytest.approx(8e6, rel=0.1)


@on_devices("cuda")
def test_peak_memory_on_cuda(device: str) -> None:
    def allocate() -> torch.Tensor:
        a = torch.zeros(1_000_000, device=device)
        return (a + a)[:10].clone()

    allocate()
    assert peak_memory(allocate, device) == pytest.approx(16e6, rel=0.1)


def test_memory_is_measured_on_known_devices_only() -> None:
    with pytest.raises(ValueError, match="device: expected the CPU or a CUDA device"):
        peak_memory(lambda: None, "meta")
