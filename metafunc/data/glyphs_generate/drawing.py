"""Drawings of a letter, each as by another hand: warped outlines, filled.

Only `rng.random` and plain arithmetic are used, so that a seed gives the same drawings everywhere.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metafunc.data.glyphs_generate.fonts import Outline, Points, area
from metafunc.data.glyphs_generate.ink import SIDE, Ink, euler, fill, shrink

_FRAME = 26.0
"""Ink stays within a square of so many pixels in the middle of the drawing."""

_WAVES = 4
"""Waves that make up the elastic displacement."""

_TRIES = 10
"""Warps tried for a drawing without a broken stroke before the letter is given up."""


def draw(outlines: Sequence[Outline], rng: np.random.Generator) -> Ink | None:
    """One drawing of a letter, [28, 28], from one of its outlines (one for each face), chosen at random.

    Tried again until no stroke is broken and no hole closed; None where that never came about, so that the
    letter is too fine for so few pixels.
    """
    for _ in range(_TRIES):
        outline = outlines[int(rng.random() * len(outlines))]
        ink = _ink(*_warp(outline, rng))
        if ink is not None:
            return ink
    return None


def plain(outline: Outline) -> Ink:
    """The letter as it stands in the font, the longer side at 24 pixels, [28, 28]: what letters are compared
    by."""
    return shrink(fill(_placed([polygon * 24 for polygon in normalise(outline)], np.zeros(2))))


def normalise(outline: Sequence[Points]) -> Outline:
    """The outline with its bounding box centred at 0 and the longer side of that box scaled to 1."""
    low, high = _bounds(outline)
    return tuple((polygon - (low + high) / 2) / (high - low).max() for polygon in outline)


def _warp(outline: Outline, rng: np.random.Generator) -> tuple[Outline, float, Points]:
    """The outline in pixels after a random warp, the thickness wanted for its strokes, and its random place.

    Maths: `p -> A p + sum_i push_i sin(wave_i A p + phase_i)` in units of the letter's longer side. `A`
    stretches by up to 17 % in x and 10 % in y, shears by up to 0.18 and rotates by up to 11 degrees. The sum
    is a smooth elastic displacement: waves of 0.4 to 1.3 periods across the letter, each of which moves
    points by up to 3 %. Then the longer side is scaled to 19 to 25 pixels.
    """

    def uniform(low: float, high: float, *shape: int) -> NDArray[np.float64]:
        return low + (high - low) * rng.random(shape)

    angle, shear = uniform(-0.19, 0.19), uniform(-0.18, 0.18)
    stretch = np.exp(np.stack([uniform(-0.16, 0.16), uniform(-0.1, 0.1)]))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine = rotation @ np.array([[1.0, shear], [0.0, 1.0]]) * stretch
    heading, periods = uniform(0, 2 * np.pi, _WAVES), uniform(0.4, 1.3, _WAVES)
    wave = 2 * np.pi * periods * np.stack([np.cos(heading), np.sin(heading)])
    phase, push = uniform(0, 2 * np.pi, _WAVES), uniform(-0.03, 0.03, _WAVES, 2)
    size, thickness, place = uniform(19, 25), uniform(1.5, 2.9), uniform(-2.5, 2.5, 2)

    straight = [polygon @ affine.T for polygon in normalise(outline)]
    warped = [polygon + np.sin(polygon @ wave + phase) @ push for polygon in straight]
    return tuple(polygon * size for polygon in normalise(warped)), float(thickness), place


def _ink(outline: Outline, thickness: float, place: Points) -> Ink | None:
    """The drawing with strokes nearest to `thickness` that has as many pieces less holes as the outline, or
    None."""
    # A stroke of length s and width w has about the area s w and the perimeter 2 s; `area` is twice the area.
    width = sum(area(polygon) for polygon in outline) / sum(_perimeter(polygon) for polygon in outline)
    wanted = float(np.clip((thickness - width) / 2, -0.22 * width, 0.6))
    pieces = euler(fill(_placed(outline, np.zeros(2))))
    for more in (0.0, 0.15, 0.3, 0.45, 0.6, 0.75):
        ink = shrink(fill(_placed([_embolden(polygon, wanted + more) for polygon in outline], place)))
        if euler(ink) == pieces:
            return ink
    return None


def _placed(outline: Sequence[Points], place: Points) -> Outline:
    """The outline moved to the middle of the drawing and from there by `place`, as far as the frame
    allows."""
    low, high = _bounds(outline)
    slack = np.maximum((_FRAME - (high - low)) / 2, 0)
    return tuple(p - (low + high) / 2 + SIDE / 2 + np.clip(place, -slack, slack) for p in outline)


def _embolden(polygon: Points, distance: float) -> Points:
    """The polygon with each corner moved by `distance` away from the ink."""
    along = np.roll(polygon, -1, axis=0) - polygon
    along = along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    tangent = along + np.roll(along, 1, axis=0)
    tangent = tangent / np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    return polygon + distance * tangent[:, ::-1] * (1.0, -1.0)


def _perimeter(polygon: Points) -> float:
    return float(np.linalg.norm(np.roll(polygon, -1, axis=0) - polygon, axis=1).sum())


def _bounds(outline: Sequence[Points]) -> tuple[Points, Points]:
    points = np.concatenate(outline)
    return points.min(axis=0), points.max(axis=0)
