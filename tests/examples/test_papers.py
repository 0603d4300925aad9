"""The scripts of `examples/papers` in their quick mode: what they measure has the shape that the papers claim."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("tyro", "rich", "matplotlib"):
    pytest.importorskip(package)

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def run(name: str, folder: Path) -> str:
    """What the script prints; its files are in ``folder / name``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = str(ROOT / "examples" / "papers" / f"{name}.py")
    command = [sys.executable, "-W", "error::UserWarning", script, "--quick", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / name / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return done.stdout


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_bias_of_fobmaml_has_the_slopes_of_the_paper(tmp_path):
    printed = run("fobmaml_bias", tmp_path)
    slopes = {
        (row["scheme"], row["against"]): float(row["slope"])
        for row in read(tmp_path / "fobmaml_bias/slopes.csv")
    }
    wanted = {
        ("forward, n = 1", "nu"): 1,
        ("symmetric, n = 2", "nu"): 2,
        ("forward, n = 3", "nu"): 3,
        ("symmetric, n = 4", "nu"): 4,
        ("forward, n = 1", "delta"): 1 / 2,
        ("symmetric, n = 2", "delta"): 2 / 3,
        ("forward, n = 3", "delta"): 3 / 4,
        ("symmetric, n = 4", "delta"): 4 / 5,
        ("tangent", "delta"): 1,
    }
    assert slopes == pytest.approx(wanted, abs=0.15)
    assert printed.count("holds: ") == len(wanted)
    bias = {
        row["scheme"]: float(row["bias"])
        for row in read(tmp_path / "fobmaml_bias/bias.csv")
        if (row["panel"], row["x"]) == ("delta", "1e-09")
    }
    assert bias["forward, n = 1"] > 10 * bias["symmetric, n = 2"] > 20 * bias["symmetric, n = 4"]


def test_fobmaml_improves_with_inner_steps_and_passes_imaml_with_few_cg_steps(tmp_path):
    run("fobmaml_fig1", tmp_path)
    rows = read(tmp_path / "fobmaml_fig1/lines.csv")
    errors: dict[str, list[float]] = {}
    for row in rows:
        if row["panel"] == "quality":
            errors.setdefault(row["method"], []).append(float(row["mean"]))
    for name in ("FO-B-MAML", "FO-B-MAML, (10) from theta", "MAML"):
        assert errors[name] == sorted(errors[name], reverse=True)
        assert errors[name][-1] < 0.1 * min(errors["iMAML, 2 CG"][-1], errors["iMAML, 5 CG"][-1])
    assert errors["iMAML, 5 CG"][-1] > 10 * errors["iMAML, 10 CG"][-1]
    assert min(errors["FO-MAML"] + errors["Reptile"]) > 0.1
    first, last = (
        {r["method"]: float(r["mean"]) for r in rows if (r["panel"], r["x"]) == ("loss", k)}
        for k in ("0", "10")
    )
    assert len(set(first.values())) == 1
    assert all(last[name] < 0.5 * first[name] for name in first)
    assert last["FO-B-MAML"] < min(last["FO-MAML"], last["Reptile"])


def test_first_order_maml_stalls_where_hessian_free_maml_goes_on(tmp_path):
    run("hfmaml", tmp_path)
    slopes = {
        (row["method"], row["against"]): float(row["slope"]) for row in read(tmp_path / "hfmaml/slopes.csv")
    }
    assert slopes["FO-MAML", "alpha"] == pytest.approx(1, abs=0.15)
    assert slopes["FO-MAML", "sigma"] == pytest.approx(1, abs=0.15)
    ends = {row.pop("method"): [float(x) for x in row.values()] for row in read(tmp_path / "hfmaml/ends.csv")}
    assert ends["FO-MAML"][1] == pytest.approx(ends["FO-MAML"][0], rel=0.01)
    assert ends["FO-MAML"][1] > 1e-3
    for name in ("MAML", "HF-MAML"):
        assert ends[name][1] < 1e-7
        assert ends[name][1] < 0.1 * ends[name][0]
    assert 1e3 * ends["HF-MAML"][1] < ends["HF-MAML, Theorem 4.17"][1] < 0.5 * ends["FO-MAML"][1]


def test_measured_errors_stay_below_the_bounds_and_reach_the_sharp_ones(tmp_path):
    printed = run("binommaml_fig2", tmp_path)
    assert printed.count("holds: ") == 8  # all but the order of 3.10, which fails at L = 1
    rows = read(tmp_path / "binommaml_fig2/lines.csv")
    assert len(rows) == 3 * 3 * 6
    for row in rows:
        assert float(row["mean"]) <= float(row["worst"]) <= float(row["bound without order"]) + 1e-12
    sharp = [row for row in rows if row["theorem"].startswith("3.6")]
    for row in sharp:
        assert float(row["worst"]) == pytest.approx(float(row["bound"]), rel=0.02, abs=1e-12)


def test_binomial_falls_faster_with_its_order_than_truncated(tmp_path):
    run("binommaml_fig3", tmp_path)
    means = {
        (row["method"], int(row["L"]), int(row["seed"])): float(row["mean"])
        for row in read(tmp_path / "binommaml_fig3/means.csv")
    }
    for seed in (0, 1):
        for method in ("Truncated", "Binomial"):
            line = [means[method, n, seed] for n in range(5)]
            assert line == sorted(line, reverse=True)
            assert line[0] == means["FirstOrder", 0, seed]
        for n in (3, 4):
            assert means["Binomial", n, seed] < means["Truncated", n, seed]
            # The rescaled learning rate leaves an error of first order.
            assert means["Binomial", n, seed] < 0.5 * means["Binomial, rescaled lr", n, seed]
