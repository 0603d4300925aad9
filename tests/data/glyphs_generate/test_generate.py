import runpy
import sys
from importlib.resources import files

import numpy as np
import pytest

from metafunc.data.glyphs_generate import generate as module
from metafunc.data.glyphs_generate.generate import drawings, generate
from metafunc.data.glyphs_generate.letters import Letter


@pytest.mark.parametrize(
    "name",
    [
        "georgian/an",
        "lao/ko",
        "tifinagh/yaz",
        "greek/small-xi",
        "arabic/sad",
        "canadian/aai",
        "latin/capital-r",
    ],
)
def test_the_shipped_drawings_come_out_again_bit_for_bit(family, letters, name):
    with files("metafunc.data").joinpath("glyphs.npz").open("rb") as file, np.load(file) as arrays:
        index = arrays["names"].tolist().index(name)
        character = int(arrays["characters"][index])
    again = drawings(character, family)
    assert again is not None
    assert np.array_equal(again, letters.images[letters.labels == index, 0].numpy().astype(bool))


def test_another_seed_gives_other_drawings(family):
    assert not np.array_equal(drawings(ord("R"), family, seed=0), drawings(ord("R"), family, seed=1))


FEW = [
    Letter(ord("ა"), "georgian/an", "test"),
    Letter(ord("Թ"), "armenian/capital-to", "val"),
    Letter(ord("R"), "latin/capital-r", "train"),
    Letter(0x0420, "cyrillic/capital-er", "train"),
    Letter(ord("P"), "latin/capital-p", "train"),
]


@pytest.fixture
def few(monkeypatch, family):
    """The generator with a handful of letters to choose from, of which two are alike."""
    monkeypatch.setattr(module, "candidates", lambda face: FEW)
    monkeypatch.setattr(module, "faces", lambda: family)


def test_the_arrays_hold_the_drawings_of_the_letters_chosen(few, family):
    arrays = generate(seed=3)
    assert arrays["names"].tolist()[:2] == ["latin/capital-r", "cyrillic/capital-er"]
    assert arrays["names"].tolist()[-2:] == ["armenian/capital-to", "georgian/an"]
    assert "latin/capital-p" not in arrays["names"]
    assert arrays["splits"].tolist()[-3:] == ["train", "val", "test"]
    shape = arrays["shape"].tolist()
    assert shape == [len(arrays["names"]), 20, 1, 28, 28]
    images = np.unpackbits(arrays["bits"]).reshape(shape)
    assert np.array_equal(images[0, :, 0], drawings(ord("R"), family, seed=3))


def test_letters_too_fine_are_left_out(few, monkeypatch):
    whole = module.drawings
    monkeypatch.setattr(module, "drawings", lambda c, *rest: None if c == ord("R") else whole(c, *rest))
    assert "latin/capital-r" not in generate()["names"]


def test_the_program_writes_the_file(few, monkeypatch, tmp_path, capsys):
    target = tmp_path / "letters.npz"
    monkeypatch.setattr(sys, "argv", ["glyphs_generate", "--out", str(target)])
    runpy.run_module("metafunc.data.glyphs_generate", run_name="__main__")
    with np.load(target) as written:
        expected = generate()
        assert sorted(written) == sorted(expected)
        assert all(np.array_equal(written[name], expected[name]) for name in expected)
    said = f"{target}: {len(expected['names'])} letters, {target.stat().st_size:,} bytes"
    assert capsys.readouterr().out.strip() == said
