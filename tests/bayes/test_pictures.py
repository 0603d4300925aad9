import re
import sys

import pytest
import torch

from metafunc import bayes

figures = pytest.importorskip("matplotlib.figure")


def test_a_reliability_diagram_is_drawn(tmp_path):
    answers = {name: (torch.randn(2, 50, 3), torch.randint(3, (50,))) for name in ("ABML", "iBaML")}
    path = bayes.draw_reliability(answers, tmp_path / "new" / "reliability.png", bins=5)
    assert path.stat().st_size > 5_000


def test_bands_are_two_deviations_wide():
    axes = figures.Figure().subplots()
    x = torch.linspace(0, 1, 5)
    bayes.draw_bands(axes, x, bayes.Predictive(torch.zeros(5), torch.full((5,), 2.0), torch.ones(5)))
    reach = sorted(band.get_paths()[0].get_extents().y1 for band in axes.collections)
    assert reach == pytest.approx([2.0, 4.0])
    assert axes.lines[0].get_ydata().tolist() == [0.0] * 5


def test_nothing_to_draw(tmp_path):
    text = "answers: expected at least one classifier, got {}. Pass {name: (outputs, labels)}."
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        bayes.draw_reliability({}, tmp_path / "x.png")


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    text = "pictures: expected the package matplotlib, got none installed. Run pip install 'metafunc[bayes]'."
    with pytest.raises(ImportError, match=f"^{re.escape(text)}$"):
        bayes.draw_reliability(
            {"a": (torch.zeros(1, 2, 3), torch.zeros(2, dtype=torch.int64))}, tmp_path / "x.png"
        )
