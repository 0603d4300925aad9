import math
import sys

import numpy as np
import pytest

from metafunc.data.glyphs_generate.fonts import FACES, _oriented, area, faces

SQUARE = [(0, 0), (0, 10), (10, 10), (10, 0)]


def test_a_square_goes_clockwise_on_the_page_with_y_downwards(make_face):
    (polygon,) = make_face({"s": SQUARE}).outline(ord("s"))
    assert area(polygon) == 200
    assert polygon[:, 1].min() == -10
    assert polygon[:, 1].max() == 0


def test_an_outline_the_wrong_way_round_is_turned(make_face):
    (polygon,) = make_face({"s": SQUARE[::-1]}).outline(ord("s"))
    assert area(polygon) == 200


def test_each_polygon_is_turned_by_itself(make_face):
    def boxes(*sides: tuple[int, int, int]) -> list[np.ndarray]:
        """Boxes from (low, low) to (high, high), with y upwards, clockwise for a sign of 1."""
        corners = [
            np.array([(a, a), (a, b), (b, b), (b, a)], dtype=float)[::sign] * (1, -1) for a, b, sign in sides
        ]
        return list(_oriented(corners))

    def signs(polygons: list[np.ndarray]) -> list[float]:
        return [float(np.sign(area(polygon))) for polygon in polygons]

    assert signs(boxes((0, 10, 1), (2, 8, -1))) == [1, -1]
    assert signs(boxes((0, 10, -1), (2, 8, 1))) == [1, -1]
    assert signs(boxes((0, 10, 1), (20, 30, -1))) == [1, 1]
    assert signs(boxes((0, 10, 1), (20, 30, -1), (22, 28, 1))) == [1, 1, -1]
    assert signs(boxes((0, 10, 1), (5, 15, 1))) == [1, 1]
    # What is wound twice is ink too, so that the second box is no edge of the ink and stays as it is.
    assert signs(boxes((0, 10, 1), (2, 8, 1), (3, 7, -1), (4, 6, -1))) == [1, 1, -1, -1]


def test_control_points_alone_make_a_round_letter(make_face):
    # Four parabolas through the middles of the sides, each of which cuts off a sixth of its 5x5 corner.
    (polygon,) = make_face({"o": SQUARE}, {"o": [0, 0, 0, 0]}).outline(ord("o"))
    assert np.abs(polygon - (5, -5)).max() == 5
    assert area(polygon) / 2 == pytest.approx(100 - 4 * 25 / 6, rel=0.01)


def test_one_control_point_bends_one_corner(make_face):
    (polygon,) = make_face({"d": SQUARE}, {"d": [1, 0, 1, 1]}).outline(ord("d"))
    # The parabola cuts off a third of the triangle of 50 between its two ends and its control point.
    assert area(polygon) / 2 == pytest.approx(100 - 50 / 3, rel=0.01)


def test_no_outline_without_ink_or_without_the_letter(make_face):
    face = make_face({" ": []})
    assert face.outline(ord(" ")) == ()
    assert face.outline(ord("x")) == ()
    assert not face.has_ink(ord(" "))
    assert not face.has_ink(ord("x"))


def test_area_of_a_circle_and_of_a_hole():
    angle = np.linspace(0, 2 * math.pi, 1000, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert area(circle) == pytest.approx(2 * math.pi, rel=1e-4)
    assert area(circle[::-1]) == pytest.approx(-2 * math.pi, rel=1e-4)


def test_the_bundled_faces(family):
    assert tuple(face.name for face in family) == FACES
    assert all(len(face.outline(ord("A"))) == 2 for face in family)
    assert all(len(face.outline(ord("B"))) == 3 for face in family)
    # The family has letters with pieces that run the wrong way round.
    assert all(area(polygon) > 0 for polygon in family[0].outline(ord("ק")))
    for face in family:
        for character in list(face.characters)[::150]:
            outline = face.outline(character)
            assert not outline or sum(area(polygon) for polygon in outline) > 0


def test_without_matplotlib_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"Install matplotlib; metafunc.data.glyphs\(\) reads finished drawings"
    ):
        faces()
