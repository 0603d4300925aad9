"""The outlines of letters in the DejaVu faces that matplotlib bundles."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""The corners of a closed polygon, [points, 2]: x to the right, y downwards."""

Outline = tuple[Points, ...]
"""The polygons of a letter. Walking along one, ink lies to the right as seen on the page, around holes
too."""

FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
)
"""The faces that are drawn from. The first has every letter and is the canonical one."""

_PIECES = 8
"""Straight pieces per segment of an outline: a warp bends a long stem only where the stem has points."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face of the family.

    Attributes:
        name: the file's name without its ending, such as "DejaVuSans-Bold".
        characters: code point -> the name of its glyph inside the font.
        table: fontTools' `glyf` table, which holds the outlines.
    """

    name: str
    characters: dict[int, str]
    table: Any

    def has_ink(self, character: int) -> bool:
        """Whether `outline` of a code point is more than nothing; quicker than drawing it."""
        return character in self.characters and len(self._contours(character)[0]) > 0

    def outline(self, character: int) -> Outline:
        """The polygons of a code point, in font units; none where the face has no ink for it."""
        if not self.has_ink(character):
            return ()
        points, ends, flags = self._contours(character)
        # Fonts count y upwards, drawings downwards.
        corners = np.asarray(list(points), dtype=np.float64) * (1.0, -1.0)
        on_curve = (np.asarray(list(flags), dtype=np.int64) & 1) == 1
        polygons: list[Points] = []
        start = 0
        for end in (int(last) + 1 for last in ends):
            if end - start > 2:
                polygons.append(_flatten(corners[start:end], on_curve[start:end]))
            start = end
        return _oriented(polygons)

    def _contours(self, character: int) -> Any:
        return self.table[self.characters[character]].getCoordinates(self.table)


def faces() -> tuple[Face, ...]:
    """The faces named in `FACES`, in that order.

    Raises:
        ModuleNotFoundError: matplotlib, or the fontTools that comes with it, is missing.
    """
    try:
        font_file = import_module("fontTools.ttLib").TTFont
        folder = Path(import_module("matplotlib").get_data_path()) / "fonts" / "ttf"
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"expected matplotlib with its fonts and fontTools, to draw letters from; got: {error}. "
            "Install matplotlib; metafunc.data.glyphs() reads finished drawings and needs neither."
        ) from error
    fonts = {name: font_file(folder / f"{name}.ttf") for name in FACES}
    return tuple(Face(name, font.getBestCmap(), font["glyf"]) for name, font in fonts.items())


def area(polygon: Points) -> float:
    """Twice the signed area (the shoelace formula): positive where the walk goes clockwise on the page."""
    x, y = polygon.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def _oriented(polygons: list[Points]) -> Outline:
    """The polygons, each turned so that walking along it ink lies to the right.

    In a few letters of the family some polygons run the wrong way round. Renderers do not mind: for them ink
    is where the winding number is not 0. Whoever moves an outline along its normals does.
    """
    turned: list[Points] = []
    for polygon in polygons:
        # One piece of each segment is enough to tell.
        ahead = (np.roll(polygon, -1, axis=0) - polygon)[::_PIECES]
        middle, right = polygon[::_PIECES] + ahead / 2, ahead[:, ::-1] * (-1.0, 1.0) * 1e-3
        ink_right = _winding(middle + right, polygons) != 0
        ink_left = _winding(middle - right, polygons) != 0
        # Where polygons overlap there may be ink on both sides, so that edges vote by their lengths.
        votes = np.linalg.norm(ahead, axis=1) * (ink_right.astype(np.int64) - ink_left)
        turned.append(polygon if votes.sum() >= 0 else polygon[::-1])
    return tuple(turned)


def _winding(points: Points, polygons: list[Points]) -> NDArray[np.int64]:
    """How often the polygons go around each point: the signed count of the edges to the left of it,
    [points]."""
    x, y = points.T[:, :, None]
    start = np.concatenate(polygons)
    end = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons])
    (x0, y0), (x1, y1) = start.T, end.T
    crosses = (np.minimum(y0, y1) <= y) & (y < np.maximum(y0, y1))
    part = np.divide(y - y0, y1 - y0, out=np.zeros_like(crosses, dtype=np.float64), where=crosses)
    left = crosses & (x0 + part * (x1 - x0) < x)
    return (left * np.where(y1 < y0, 1, -1)).sum(axis=1)


def _flatten(points: Points, on_curve: NDArray[np.bool_]) -> Points:
    """One TrueType contour as a polygon.

    Maths: between two neighbouring control points lies a point of the curve, half-way. Then a control point
    `c` between the curve points `a` and `b` draws `(1-t)^2 a + 2t(1-t) c + t^2 b`, and a straight line is the
    same with `c = (a+b)/2`: either way what is missing between two neighbours of one kind is the point
    half-way.
    """
    halfway = (points + np.roll(points, -1, axis=0)) / 2
    same_kind = on_curve == np.roll(on_curve, -1)
    keep = np.stack([np.ones_like(same_kind), same_kind], axis=1).reshape(-1)
    path = np.stack([points, halfway], axis=1).reshape(-1, 2)[keep]
    is_curve = np.stack([on_curve, ~on_curve], axis=1).reshape(-1)[keep]
    path = np.roll(path, -int(np.argmax(is_curve)), axis=0)
    a, c = path[0::2, None], path[1::2, None]
    b = np.roll(a, -1, axis=0)
    t = (np.arange(_PIECES) / _PIECES)[:, None]
    return ((1 - t) ** 2 * a + 2 * t * (1 - t) * c + t**2 * b).reshape(-1, 2)
