"""Pictures: what is drawn is what was recorded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from metafunc.training import draw_curves, draw_episode
from metafunc.training.pictures import _smooth

figure = pytest.importorskip("matplotlib.figure")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The figures that were saved."""
    saved: list[object] = []
    save = figure.Figure.savefig

    def keep(self: object, *args: object, **options: object) -> None:
        saved.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(figure.Figure, "savefig", keep)
    return saved


def test_curves(tmp_path: Path, drawn: list[figure.Figure]) -> None:
    lines = ["step,seconds,loss,accuracy,grad_norm", "10,1,2.0,0.2,1", "20,2,1.0,0.5,1", "30,3,0.9,0.6,1"]
    (tmp_path / "training.csv").write_text("\n".join(lines))
    lines = [
        "step,seconds,loss,loss_interval,accuracy,accuracy_interval",
        "0,0,2,0.1,0.2,0.05",
        "30,3,1,0.1,0.7,0.04",
    ]
    (tmp_path / "validation.csv").write_text("\n".join(lines))
    path = draw_curves(tmp_path, chance=0.2)
    assert path == tmp_path / "curves.png" and path.stat().st_size > 5000
    loss, accuracy = drawn[0].axes
    assert [axes.get_ylabel() for axes in (loss, accuracy)] == ["loss", "accuracy"]
    assert accuracy.lines[0].get_xydata().tolist() == [[10, 0.2], [20, 0.5], [30, 0.6]]
    assert [0.2, 0.7] in [list(line.get_ydata()) for line in accuracy.lines], "validation"
    assert "chance" in [text.get_text() for text in accuracy.get_legend().get_texts()]
    assert "chance" not in [text.get_text() for text in loss.get_legend().get_texts()]


def test_curves_while_a_run_has_no_validation(tmp_path: Path, drawn: list[figure.Figure]) -> None:
    (tmp_path / "training.csv").write_text("step,seconds,loss\n10,1,2.0\n20,2,1.0\n")
    draw_curves(tmp_path)
    assert len(drawn[0].axes) == 1
    with pytest.raises(FileNotFoundError, match=r"training\.csv"):
        draw_curves(tmp_path / "none")


def test_smoothing_keeps_lines_straight_and_length() -> None:
    line = [0.5 * i for i in range(200)]
    smooth = _smooth(line)
    assert len(smooth) == 200
    assert smooth[5:-5] == pytest.approx(line[5:-5])
    assert smooth[0] == pytest.approx(sum(line[:6]) / 6)  # a fortieth of 200 to either side


@pytest.mark.parametrize("channels", [1, 3])
def test_an_episode(channels: int, tmp_path: Path, drawn: list[figure.Figure]) -> None:
    labels = torch.tensor([0, 0, 1, 1])
    support = torch.rand(4, channels, 8, 8), labels
    query = torch.rand(6, channels, 8, 8), torch.tensor([0, 0, 0, 1, 1, 1])
    answers = torch.tensor([0, 1, 0, 1, 1, 0])
    path = draw_episode(support, query, answers, tmp_path / "new" / "episode.png")
    assert path.stat().st_size > 5000
    frames = [axes.spines["left"].get_edgecolor() for axes in drawn[0].axes]
    texts = [axes.get_xlabel() for axes in drawn[0].axes]
    assert texts == ["", "", "", "class 1", "", "", "", "", "", "class 0"]
    assert len({frames[i] for i in (2, 4, 7, 8)}) == 1 and frames[3] == frames[9] != frames[2]
    red, green, _, _ = frames[2]
    assert green > red, "right answers are green"
    assert "67% of the queries right" in drawn[0].get_suptitle()


def test_matplotlib_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        ImportError, match=r"pictures: expected the package matplotlib, got none .*metafunc\[train\]"
    ):
        draw_curves(tmp_path)
