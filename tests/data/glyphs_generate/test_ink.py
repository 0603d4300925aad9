import numpy as np
import pytest

from metafunc.data.glyphs_generate.ink import euler, fill, shrink


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """A rectangle with its ink inside: clockwise on the page."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def test_fill_and_shrink_a_box_and_its_hole():
    inside = fill([box(2, 3, 12, 23), box(5, 6, 9, 20)[::-1]])
    assert inside.shape == (112, 112)
    ink = shrink(inside)
    expected = np.zeros((28, 28), dtype=bool)
    expected[3:23, 2:12] = True
    expected[6:20, 5:9] = False
    assert np.array_equal(ink, expected)


def test_overlaps_stay_ink_and_holes_alone_are_none():
    assert np.array_equal(
        fill([box(2, 2, 10, 10), box(6, 6, 14, 14)]), fill([box(2, 2, 10, 10)]) | fill([box(6, 6, 14, 14)])
    )
    assert not fill([box(2, 2, 10, 10)[::-1]]).any()


def test_what_is_outside_of_the_frame_is_cut_off():
    assert fill([box(-5, -5, 40, 40)]).all()
    assert not fill([box(30, 0, 40, 28)]).any()
    assert fill([box(-10, 7, 14, 14)]).sum() == 56 * 28


def test_a_slanted_edge_covers_what_it_should():
    triangle = np.array([(0.0, 0.0), (28.0, 0.0), (0.0, 28.0)])
    assert fill([triangle]).mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("covered", "is_ink"), [(0.25, False), (0.5, True)])
def test_a_pixel_is_ink_when_enough_of_it_is_covered(covered, is_ink):
    assert shrink(fill([box(4, 4, 4 + covered, 5)]))[4, 4] == is_ink


def picture(*rows: str) -> np.ndarray:
    return np.array([[mark == "#" for mark in row] for row in rows])


@pytest.mark.parametrize(
    ("rows", "number"),
    [
        (("....", "...."), 0),
        (("##", "##"), 1),
        (("#.#", "...", "#.."), 3),
        (("#.", ".#"), 1),
        (("###", "#.#", "###"), 0),
        (("#####", "#.#.#", "#####"), -1),
        (("#####", "#...#", "#.#.#", "#...#", "#####"), 1),
        ((".#.", "#.#", ".#."), 0),
    ],
)
def test_euler_counts_pieces_less_holes(rows, number):
    assert euler(picture(*rows)) == number
