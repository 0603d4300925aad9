"""The peak of the allocator is that of known allocations."""

from __future__ import annotations

import pytest
import torch

from metafunc import peak_memory


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_peak_memory_on_cuda() -> None:
    def allocate() -> torch.Tensor:
        a = torch.zeros(1_000_000, device="cuda")
        return (a + a)[:10].clone()

    allocate()
    assert peak_memory(allocate, "cuda") == pytest.approx(16e6, rel=0.1)


def test_memory_is_measured_on_known_devices_only() -> None:
    with pytest.raises(ValueError, match="device: expected the CPU or a CUDA device"):
        peak_memory(lambda: None, "meta")
