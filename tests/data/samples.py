"""Where real data is, for the tests that look at some."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def real(name: str) -> Path:
    """A file or folder of real data in `$METAFUNC_DATA`; without it the test is skipped."""
    folder = Path(os.environ.get("METAFUNC_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not (folder / name).exists():
        pytest.skip(f"there is no {name} in {folder}; METAFUNC_DATA names the folder of the data")
    return folder / name
