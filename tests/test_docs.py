"""The code in the README and in the docs runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import metafunc as mf
from metafunc.curvature import Curvature
from tests.tasks import close

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def run(page: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)
    return names


@pytest.fixture
def single_precision() -> None:
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("single_precision")
def test_readme() -> None:
    names = run("README.md")
    assert names["grads"]["0.weight"].shape == (25, 40, 1)
    exact = mf.Binomial(order=5)(names["adapt"].inner)
    theta, task = names["theta"], {k: tuple(x[0] for x in v) for k, v in names["tasks"].items()}
    expected = torch.func.grad(lambda t: names["loss"](exact(t, task["support"]), task["query"]))(theta)
    error = (names["grads"]["0.weight"][0] - expected["0.weight"]).norm() / expected["0.weight"].norm()
    assert error < 0.05
    assert names["meta"].steps == 1


@pytest.mark.usefixtures("single_precision")
def test_choose(capsys: pytest.CaptureFixture[str]) -> None:
    run("docs/choose.md")
    table = capsys.readouterr().out
    assert "Binomial(order=2)" in table
    assert "FirstOrder()" in table


@pytest.mark.usefixtures("single_precision")
def test_solvers() -> None:
    names = run("docs/solvers.md")
    assert {name: x.shape for name, x in names["slopes"].items()} == {
        name: x.shape for name, x in names["theta"].items()
    }
    assert all(x.norm() > 1e-4 for x in names["slopes"].values())
    assert names["result"].stats["curvature_min"].shape == (8,)
    solver = names["closed_form"]
    close(torch.func.jacrev(solver)(torch.ones(2), torch.zeros(2)), 0.5 * torch.eye(2), 1e-6)


def test_every_solver_curvature_and_estimator_is_on_a_page() -> None:
    pages = "".join((ROOT / page).read_text() for page in ("README.md", "docs/choose.md", "docs/solvers.md"))
    functions = {"minimizes", "solves", "iterates", "check", "meta_grad", "compare"}
    kinds = (mf.Estimator, mf.LinearSolver, Curvature)
    for name in mf.__all__:
        thing = getattr(mf, name)
        if thing in kinds or not isinstance(thing, type) or not issubclass(thing, kinds):
            continue
        assert name in pages, name
    for name in functions | {"gradient_descent", "nesterov", "newton_cg", "adam", "optimizer_loop"}:
        assert name in pages, name


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 80


def test_every_public_name_has_a_docstring() -> None:
    for name in mf.__all__:
        assert getattr(mf, name).__doc__, name


@pytest.mark.usefixtures("single_precision")
def test_examples() -> None:
    names = run("docs/examples.md")
    assert names["run"].steps == 10 and names["run"].stopped == "finished"
    assert (Path(names["folder"]) / "curves.png").exists()
