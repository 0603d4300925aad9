"""What the tests of the generator share."""

from typing import Any

import pytest

from metafunc.data.glyphs_generate.fonts import Face, faces


class Table:
    """A font's outlines: glyph name -> corners, last corner of each contour, flags (1: on the curve)."""

    def __init__(self, glyphs: dict[str, tuple[list[tuple[int, int]], list[int], list[int]]]) -> None:
        self.glyphs = glyphs

    def __getitem__(self, name: str) -> "Glyph":
        return Glyph(self.glyphs[name])


class Glyph:
    def __init__(self, parts: Any) -> None:
        self.parts = parts

    def getCoordinates(self, table: Table) -> Any:
        return self.parts


@pytest.fixture
def make_face():
    """A face from the corners of each letter's only contour, all on the curve unless flags are given."""

    def make(corners: dict[str, list[tuple[int, int]]], flags: dict[str, list[int]] | None = None) -> Face:
        of = flags or {}
        parts = {
            name: (points, [len(points) - 1] if points else [], of.get(name, [1] * len(points)))
            for name, points in corners.items()
        }
        return Face("Made up", {ord(name): name for name in corners}, Table(parts))

    return make


@pytest.fixture(scope="session")
def family() -> tuple[Face, ...]:
    pytest.importorskip("matplotlib", reason="the letters are drawn from the fonts that matplotlib brings")
    return faces()
