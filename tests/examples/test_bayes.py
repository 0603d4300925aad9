"""The Bayesian examples run, and say what they are there to say."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.examples import program

for package in ("tyro", "matplotlib", "rich"):
    pytest.importorskip(package)


def run(script: str, out: Path, *options: str) -> list[dict[str, str]]:
    """Runs a script in its quick mode; the rows of its one table."""
    program.run(script, out, "--quick", "--out", out, *options)
    (table,) = out.glob("*.csv")
    with table.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("method", ["ibaml", pytest.param("abml", marks=pytest.mark.exhaustive)])
def test_sinusoid(tmp_path: Path, method: str) -> None:
    (row,) = run("bayes_sinusoid.py", tmp_path, "--method", method)
    assert 0 <= float(row["coverage"]) <= 1
    assert (tmp_path / f"{method}.png").stat().st_size > 10_000


def test_omniglot(tmp_path: Path) -> None:
    rows = run("bayes_omniglot.py", tmp_path)
    assert [row["method"] for row in rows] == ["maml", "abml", "ibaml"]
    for row in rows:
        assert all(0 <= float(row[name]) <= 1 for name in ("accuracy", "ece", "mce"))
        assert float(row["nll_interval"]) > 0
    assert (tmp_path / "reliability.png").stat().st_size > 10_000
