"""Filling an outline with ink, and telling whether the ink still has the outline's strokes and holes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metafunc.data.glyphs_generate.fonts import Points

Ink = NDArray[np.bool_]

SIDE = 28
"""Pixels along the side of a drawing."""

_FINE = 4
"""Sub-pixels along the side of a pixel when an outline is filled."""

_COVERED = 0.4
"""A pixel is ink above this coverage: a little under a half, so that a thin slanted stroke does not break
up."""


def fill(outline: Sequence[Points]) -> Ink:
    """The sub-pixels inside an outline, [112, 112]; what lies outside of the frame [0, 28] x [0, 28] is cut
    off.

    Maths: inside is where the winding number is positive. Each edge adds its sign at the first sub-pixel
    right of where it crosses a row of sub-pixel centres, and the running sum along the row is the winding
    number.
    """
    fine = SIDE * _FINE
    rows = (np.arange(fine) + 0.5)[:, None]
    winding = np.zeros((fine, fine + 1), dtype=np.int64)
    for polygon in outline:
        (x0, y0), (x1, y1) = polygon.T * _FINE, np.roll(polygon, -1, axis=0).T * _FINE
        row, edge = np.nonzero((np.minimum(y0, y1) <= rows) & (rows < np.maximum(y0, y1)))
        share = (rows[row, 0] - y0[edge]) / (y1[edge] - y0[edge])
        crossing = x0[edge] + share * (x1[edge] - x0[edge])
        column = np.clip(np.ceil(crossing - 0.5), 0, fine).astype(np.int64)
        np.add.at(winding, (row, column), np.where(y1 < y0, 1, -1)[edge])
    return np.cumsum(winding, axis=1)[:, :fine] > 0


def shrink(inside: Ink) -> Ink:
    """Sub-pixels to pixels, [112, 112] -> [28, 28]: ink where enough of a pixel is covered."""
    return inside.reshape(SIDE, _FINE, SIDE, _FINE).mean(axis=(1, 3)) > _COVERED


def euler(ink: Ink) -> int:
    """Pieces of ink minus holes in it, where pixels that touch at a corner hang together.

    Maths: `(Q1 - Q3 - 2 QD) / 4`, where `Q1, Q3, QD` are the numbers of 2x2 windows that hold one pixel of
    ink, three pixels, or two on a diagonal.

    Source: Gray, "Local properties of binary images in two dimensions" (1971).
    """
    padded = np.pad(ink, 1).astype(np.int64)
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    held = a + b + c + d
    diagonal = (held == 2) & (a == d)
    return int((held == 1).sum() - (held == 3).sum() - 2 * diagonal.sum()) // 4
