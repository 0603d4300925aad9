from importlib.resources import files

import numpy as np
import pytest

from metafunc.data.glyphs_generate.distinct import ALIKE_ACROSS, difference, distinct, same_form, thicken
from metafunc.data.glyphs_generate.drawing import plain
from metafunc.data.glyphs_generate.letters import Letter


def blank(*pixels: tuple[int, int]) -> np.ndarray:
    ink = np.zeros((28, 28), dtype=bool)
    for row, column in pixels:
        ink[row, column] = True
    return ink


def test_thicken_adds_a_disc_of_radius_two():
    near = thicken(blank((10, 10))[None])[0]
    rows, columns = np.nonzero(near)
    assert np.array_equal(near, (np.arange(28)[:, None] - 10) ** 2 + (np.arange(28) - 10) ** 2 <= 4)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 12, 8, 12)


def test_thicken_at_the_border():
    assert thicken(blank((0, 0))[None]).sum() == 6


def test_difference_counts_ink_far_from_the_other_ink_both_ways():
    a = np.stack([blank((5, 5), (5, 6), (20, 20))])
    b = np.stack([blank((5, 7)), blank((5, 5), (20, 20)), blank((14, 1), (14, 2))])
    assert difference(a, b).tolist() == [[1, 0, 5]]
    assert difference(b, a).T.tolist() == difference(a, b).tolist()


def letter(text: str, split: str) -> Letter:
    return Letter(ord(text), f"{split}/{text}", split)


def test_the_earlier_of_two_alike_stays(family):
    letters = [letter(text, "train") for text in "A\u0391\u0410CcBOo"]
    assert [chr(kept.character) for kept in distinct(letters, family)] == ["A", "C", "B", "O"]


def test_turned_letters_are_alike_across_splits_alone(family):
    for split, kept in (("train", "ᐁᐃ"), ("test", "ᐁ")):
        letters = [letter("ᐁ", "train"), letter("ᐃ", split)]
        assert "".join(chr(each.character) for each in distinct(letters, family)) == kept


def test_letters_alike_in_another_face_are_alike_across_splits(family):
    # In the slanted serif face f has a tail, as the florin sign has in all.
    ordinary = [letter("ƒ", "test"), letter("f", "train")]
    assert len(distinct(ordinary, family[:1])) == 2
    assert len(distinct(ordinary, family)) == 1


def test_dots_and_bars_are_left_out(family):
    assert distinct([letter(text, "train") for text in "\u06f0Iᐨ"], family) == []


def test_another_form_of_a_letter_is_left_out(family):
    lasi = [face.outline(ord("ლ")) for face in family]
    names = [face.name for face, outline in zip(family, lasi, strict=True) if outline]
    kept = same_form([outline for outline in lasi if outline])
    assert 0 < len(kept) < len(names)
    assert len(same_form([face.outline(ord("O")) for face in family])) == len(family)


@pytest.fixture(scope="module")
def shipped() -> dict[str, np.ndarray]:
    with files("metafunc.data").joinpath("glyphs.npz").open("rb") as file, np.load(file) as arrays:
        return {name: arrays[name] for name in ("characters", "splits")}


def test_no_test_letter_of_the_shipped_data_looks_like_a_training_letter_turned_or_not(family, shipped):
    def pictures(split: str) -> np.ndarray:
        characters = shipped["characters"][shipped["splits"] == split]
        return np.stack([plain(family[0].outline(int(character))) for character in characters])

    train = pictures("train")
    for held_out in ("val", "test"):
        upright = pictures(held_out)
        for turns in range(4):
            turned = np.rot90(upright, turns, axes=(1, 2))
            assert difference(turned, train).min() > ALIKE_ACROSS
