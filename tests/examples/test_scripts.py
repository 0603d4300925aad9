"""Every example script does what it says, at a size that takes seconds."""

from __future__ import annotations

import json
import pickle
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.examples.program import EXAMPLES, run, start

for needed in ("rich", "matplotlib", "tyro", "tensorboard", "kornia"):
    pytest.importorskip(needed, reason=f"the scripts need {needed}")
Image = pytest.importorskip("PIL.Image", reason="the scripts need Pillow")

FEW = (
    "--steps",
    "2",
    "--batch",
    "2",
    "--validate-every",
    "1",
    "--validation-tasks",
    "4",
    "--test-tasks",
    "4",
)


def result(folder: Path) -> dict[str, object]:
    """The figures of a run, without its times."""
    found = json.loads((folder / "test.json").read_text())
    return {name: value for name, value in found.items() if name not in ("seconds", "folder")}


def photograph(seed: int) -> Any:
    """A coloured ramp with some noise."""
    draws = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, 84)[:, None, None] * draws.random(3)
    return Image.fromarray((ramp + draws.integers(0, 50, (84, 84, 3))).astype(np.uint8))


def test_omniglot_stopped_and_gone_on_with_is_the_run_in_one_go(tmp_path: Path) -> None:
    options = (*FEW[2:], "--width", 4, "--inner-steps", 2, "--estimator", "binomial", "--order", 1)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    text = run("omniglot.py", tmp_path, *options, "--steps", 3, "--folder", whole)
    run("omniglot.py", tmp_path, *options, "--steps", 2, "--folder", parts)
    run("omniglot.py", tmp_path, *options, "--steps", 3, "--folder", parts)
    assert "Binomial(order=1): 5-way 1-shot, 4 tasks of unseen classes" in text
    assert result(whole) == result(parts)
    score = json.loads((whole / "test.json").read_text())["accuracy"]
    assert 0 < score["mean"] < 1 and score["tasks"] == 4 and result(whole)["loss"]["interval"] > 0
    assert f"{score['mean']:.4f}" in text
    assert {"curves.png", "episode.png", "best.pt"} <= {path.name for path in whole.iterdir()}


@pytest.mark.filterwarnings("ignore:the meta-gradients up to")  # of a single inner step
@pytest.mark.parametrize(
    "options",
    [
        ("--estimator", "implicit", "--prox", "2", "--solver", "newton-cg", "--inner-steps", "1"),
        pytest.param(("--estimator", "finite-difference", "--prox", "2"), marks=pytest.mark.exhaustive),
        pytest.param(
            ("--estimator", "truncated", "--curvature", "differences", "--solver", "adam"),
            marks=pytest.mark.exhaustive,
        ),
        pytest.param(
            ("--estimator", "first-order", "--solver", "nesterov", "--prox", "1", "--test-steps", "4"),
            marks=pytest.mark.exhaustive,
        ),
        ("--estimator", "reptile", "--split", "random", "--amp", "--chunk", "1", "--cosine", "--clip", "1"),
    ],
    ids=("implicit", "finite-difference", "truncated", "first-order", "reptile"),
)
def test_omniglot_has_every_method(options: tuple[str, ...], tmp_path: Path) -> None:
    small = ("--width", "4", "--inner-steps", "2", "--queries", "2", *FEW)
    if "random" in options:  # the letters that ship are fewer than Omniglot's
        options = tuple(option for option in options if option not in ("--split", "random"))
    text = run("omniglot.py", tmp_path, *small, *options, "--folder", tmp_path)
    assert "best at step" in text and (tmp_path / "test.json").exists()


def test_miniimagenet_reads_class_folders(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("val", 5)):
        for label in range(first, first + 5):
            folder = tmp_path / "data" / split / f"n{label:08}"
            folder.mkdir(parents=True)
            for i in range(3):
                photograph(10 * label + i).save(folder / f"{i}.jpg")
    options = (
        "--data",
        tmp_path / "data",
        "--queries",
        2,
        "--width",
        4,
        "--inner-steps",
        1,
        "--augment",
        *FEW,
    )
    text = run("miniimagenet.py", tmp_path, *options, "--folder", tmp_path / "run")
    assert "there is no test split" in text and "Explicit(): 5-way 1-shot" in text
    assert (tmp_path / "run" / "episode.png").stat().st_size > 20_000


def test_tieredimagenet_reads_its_pickles(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("val", 5), ("test", 10)):
        pngs, labels = [], []
        for label in range(5):
            for i in range(3):
                photograph(10 * (first + label) + i).save(stream := BytesIO(), "png")
                pngs.append(np.frombuffer(stream.getvalue(), np.uint8))
                labels.append(label)
        names = [f"class {first + label}" for label in range(5)]
        (tmp_path / f"{split}_images_png.pkl").write_bytes(pickle.dumps(pngs))
        label_file = {"label_specific": np.array(labels), "label_specific_str": names}
        (tmp_path / f"{split}_labels.pkl").write_bytes(pickle.dumps(label_file))
    options = ("--data", tmp_path, "--queries", 2, "--width", 4, "--inner-steps", 1, *FEW)
    text = run("tieredimagenet.py", tmp_path, *options, "--folder", tmp_path / "run")
    assert "Explicit(): 5-way 1-shot, 4 tasks" in text and "no test split" not in text


def test_too_many_ways_are_refused_before_training(tmp_path: Path) -> None:
    done = start("omniglot.py", tmp_path, "--ways", 5000, "--folder", tmp_path / "run")
    assert done.status != 0
    assert re.search(r"ways: expected at most the .* classes of the data set", done.errors)
    assert not (tmp_path / "run").exists()


def test_sinusoid(tmp_path: Path) -> None:
    text = run("sinusoid.py", tmp_path, "--folder", tmp_path, *FEW)
    assert "Explicit(): squared error" in text
    assert (tmp_path / "sinusoids.png").exists() and (tmp_path / "curves.png").exists()


def test_linear_regression(tmp_path: Path) -> None:
    """The exact gradient finds the minimum that linear algebra knows; without second derivatives one stays away."""
    text = run("linear_regression.py", tmp_path, "--dimension", 4, "--steps", 15, "--output", tmp_path)
    gaps = {
        line.split("│")[1].strip(): float(line.split("│")[2]) for line in text.splitlines() if "│" in line
    }
    assert gaps["Explicit()"] < 1e-6 < 1e-4 < gaps["FirstOrder()"]
    assert (tmp_path / "linear_regression.png").exists()


@pytest.mark.exhaustive
def test_custom_inner_loop_learns(tmp_path: Path) -> None:
    text = run("custom_inner_loop.py", tmp_path, "--steps", 25, "--test-tasks", 40, "--width", 8)
    before, after = (
        float(line.split("meta-training:")[1].split("±")[0]) for line in text.splitlines() if "±" in line
    )
    assert after > before + 0.1


def test_data_reweighting_finds_wrong_labels(tmp_path: Path) -> None:
    text = run("data_reweighting.py", tmp_path, "--steps", 10, "--letters", 4, "--output", tmp_path)
    share = float(text.split("larger weight in ")[1].split("%")[0])
    assert share > 70
    assert (tmp_path / "data_reweighting.png").exists()


@pytest.mark.exhaustive
def test_hyperparameters_move(tmp_path: Path) -> None:
    text = run("hyperparameters.py", tmp_path, "--steps", 3, "--batch", 4, "--output", tmp_path)
    ends = {
        line.split("│")[1].strip(): line.split("│")[4].strip() for line in text.splitlines() if "│" in line
    }
    assert ends["learning rates fixed"] == "0.01 to 0.01" != ends["learning rates learnt"]
    assert ends["proximal weight fixed"] == "1" != ends["proximal weight learnt"]


def test_existing_loop(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    pytest.importorskip("pandas")
    text = run("existing_loop.py", tmp_path, "--epochs", 1, "--output", tmp_path)
    assert "epoch  1: training loss" in text and "test countries: squared error" in text
    assert (tmp_path / "countries.png").exists() and (tmp_path / "last.pt").exists()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_every_script_has_help(path: Path, tmp_path: Path) -> None:
    """And the parts that scripts share are no programs."""
    if "tyro.cli(" not in path.read_text():
        pytest.skip("no program of tyro's")
    text = run(path.name, tmp_path, "--help")
    assert "options" in text and "--seed" in text
