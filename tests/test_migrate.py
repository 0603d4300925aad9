"""The page for those who come from another library: its code runs, and says what is true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import metafunc as mf
from tests.tasks import close

PAGE = Path(__file__).parents[1] / "docs" / "migrate.md"


def sections() -> dict[str, list[tuple[str, str]]]:
    """The blocks of every section, each with its language."""
    parts = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    return {
        part.splitlines()[0]: re.findall(r"```([\w-]+)\n(.*?)```", part, flags=re.DOTALL) for part in parts
    }


def flat(tensors: Any) -> Tensor:
    return torch.cat([x.reshape(-1) for x in tensors])


@pytest.fixture
def names() -> dict[str, Any]:
    torch.set_default_dtype(torch.float32)
    found: dict[str, Any] = {}
    run(found, next(iter(sections())))
    return found


def run(names: dict[str, Any], title: str) -> None:
    for language, block in sections()[title]:
        if language == "python":
            exec(compile(block, f"migrate.md, {title}", "exec"), names)


def estimate(names: dict[str, Any], estimator: mf.Estimator, inner: Any = None) -> Tensor:
    theta, task = (
        {k: p.detach().clone() for k, p in names["net"].named_parameters()},
        (names["x"], names["y"]),
    )
    query = names["x_query"], names["y_query"]
    found = mf.meta_grad(names["loss"], estimator(inner or names["inner"]))(theta, task, query).grad
    return flat(found[k] for k in theta)


def grads(names: dict[str, Any]) -> Tensor:
    return flat(p.grad for p in names["net"].parameters())


def test_every_library_has_its_code_beside_ours() -> None:
    title, *libraries = sections()
    assert title == "# Coming from another library"
    assert libraries == ["learn2learn", "TorchOpt", "higher", "Torchmeta", "BOAT"]
    for name in libraries:
        languages = [language for language, _ in sections()[name]]
        assert languages[:2] == ["text", "python"], name
    assert len(PAGE.read_text().splitlines()) <= 220


def test_learn2learn(names: dict[str, Any]) -> None:
    expected = estimate(names, mf.Truncated(2))
    run(names, "learn2learn")
    close(grads(names), expected, 1e-5)


def test_torchopt(names: dict[str, Any]) -> None:
    torchopt = pytest.importorskip("torchopt")
    inner = mf.optimizer_loop(names["loss"], torchopt.adam(0.01), steps=3)
    expected = estimate(names, mf.FirstOrder(), inner)
    run(names, "TorchOpt")
    close(grads(names), expected, 1e-5)
    close(flat(names["by_adam"].values()), expected, 1e-5)


def test_higher(names: dict[str, Any]) -> None:
    expected = estimate(names, mf.Binomial(order=2))
    run(names, "higher")
    close(grads(names), expected, 1e-5)


def test_torchmeta(names: dict[str, Any]) -> None:
    expected = estimate(names, mf.Explicit())
    run(names, "Torchmeta")
    close(grads(names), expected, 1e-5)
    close(flat(names["native"].values()), expected, 1e-5)


def test_boat(names: dict[str, Any]) -> None:
    run(names, "BOAT")
    found = {name: flat(tree.values()) for name, tree in names["boat"].items()}
    close(found["RAD"], found["IAD"], 1e-6)
    assert all(
        (x - found["RAD"]).norm() > 1e-4 * x.norm() for k, x in found.items() if k not in ("RAD", "IAD")
    )
    assert F.cosine_similarity(found["CG"], found["NS"], dim=0) > 0.5
