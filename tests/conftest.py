"""Shared set-up: double precision by default, one seed, one thread."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

# On a GPU single precision is to be that, and not TF32, which its libraries would take for it.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
# Without which cuBLAS is not deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# The problems are tiny, and the tests run in parallel: waiting threads would cost more than they bring.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)
