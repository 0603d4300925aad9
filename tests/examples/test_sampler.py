"""The benchmark of samplers runs in its quick mode. Nothing here asserts a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.test_benchmarks import read, run

pytest.importorskip("kornia", reason="needs kornia")


def test_sampler(tmp_path: Path) -> None:
    assert "sampling, and one meta-step" in run("benchmarks/sampler.py", tmp_path)
    rows = read(tmp_path / "sampler.csv")
    assert [row["sampler"] for row in rows] == ["Episodes", "Episodes, kornia", "plain loop"] * 3
    assert all(float(row["tasks/s drawn"]) > 0 for row in rows)
