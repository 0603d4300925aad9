"""Letters that look alike are one class: A is the same in Latin, Greek and Cyrillic, and c is a small C."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metafunc.data.glyphs_generate.drawing import plain
from metafunc.data.glyphs_generate.fonts import Face, Outline
from metafunc.data.glyphs_generate.ink import Ink
from metafunc.data.glyphs_generate.letters import Letter

_REACH = 2
"""Pixels by which a stroke may be off and still be the same stroke."""

ALIKE = 1
"""Two letters of one split with so many pixels of difference, or fewer, are alike."""

ALIKE_ACROSS = 5
"""The same for two letters of different splits, where it must be safe to say that they are two."""

_OTHER_FORM = 60
"""A face that differs from the canonical one by more pixels draws another form of the letter, like the two
forms of g."""

_SOLID = 0.8
"""Above this share of ink in its bounding box a letter is a dot or a bar and has no shape to learn."""


def distinct(letters: Sequence[Letter], faces: Sequence[Face]) -> list[Letter]:
    """Those of `letters` that look like no earlier one that was kept.

    Letters are compared as they stand in the font, in the canonical (first) face. Letters of different splits
    are compared in the other upright and slanted faces of ordinary weight too, and turned by 90, 180 and 270
    degrees, so that no test letter is a training letter in another face or turned (`Episodes(rotations=True)`
    turns letters).
    """
    canonical = _pictures(letters, faces[0])
    within = difference(canonical, canonical)
    across = within.copy()
    for turns in (1, 2, 3):
        across = np.minimum(across, difference(np.rot90(canonical, turns, axes=(1, 2)), canonical))
    for face in faces[1:]:
        # Bold strokes are so thick that reach covers the holes between them, and all letters look alike.
        if "Bold" not in face.name:
            pictures = _pictures(letters, face)
            there = np.flatnonzero(pictures.reshape(len(pictures), -1).any(axis=1))
            pair = np.ix_(there, there)
            across[pair] = np.minimum(across[pair], difference(pictures[there], pictures[there]))
    splits = np.array([letter.split for letter in letters])
    alike = np.where(splits[:, None] == splits, within <= ALIKE, np.minimum(across, across.T) <= ALIKE_ACROSS)
    kept: list[int] = []
    for index, picture in enumerate(canonical):
        if not alike[index, kept].any() and not _solid(picture):
            kept.append(index)
    return [letters[index] for index in kept]


def same_form(outlines: Sequence[Outline]) -> list[Outline]:
    """Those outlines of one letter that show it in the same form as the first of them, the canonical one."""
    pictures = np.stack([plain(outline) for outline in outlines])
    differences = difference(pictures, pictures[:1])[:, 0]
    return [
        outline for outline, differs in zip(outlines, differences > _OTHER_FORM, strict=True) if not differs
    ]


def difference(a: Ink, b: Ink) -> NDArray[np.float64]:
    r"""Pixels by which drawings differ beyond small shifts of a stroke, for each pair: [n, 28, 28], [m, 28,
    28] -> [n, m].

    Maths: `|a \\ (b + D)| + |b \\ (a + D)|` with `D` the disc of radius 2: the ink of one that is further
    than 2 pixels from all ink of the other.
    """
    return _flat(a) @ _flat(~thicken(b)).T + _flat(~thicken(a)) @ _flat(b).T


def thicken(ink: Ink) -> Ink:
    """What lies within 2 pixels of ink, [n, 28, 28] -> [n, 28, 28]."""
    height, width = ink.shape[1:]
    padded = np.pad(ink, ((0, 0), (_REACH, _REACH), (_REACH, _REACH)))
    near = np.zeros_like(ink)
    for dy in range(-_REACH, _REACH + 1):
        for dx in range(-_REACH, _REACH + 1):
            if dx * dx + dy * dy <= _REACH * _REACH:
                near |= padded[:, _REACH + dy : _REACH + dy + height, _REACH + dx : _REACH + dx + width]
    return near


def _pictures(letters: Sequence[Letter], face: Face) -> Ink:
    """The letters as they stand in a face, [letters, 28, 28]; without ink where the face lacks one."""
    outlines = [face.outline(letter.character) for letter in letters]
    return np.stack([plain(o) if o else np.zeros((28, 28), dtype=np.bool_) for o in outlines])


def _solid(picture: Ink) -> bool:
    rows, columns = np.flatnonzero(picture.any(axis=1)), np.flatnonzero(picture.any(axis=0))
    box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    return bool(picture.sum() > _SOLID * box)


def _flat(ink: Ink) -> NDArray[np.float64]:
    # Sums of ones and zeros are exact in floats, so that the thresholds fall the same way on every machine.
    return ink.reshape(len(ink), ink.shape[1] * ink.shape[2]).astype(np.float64)
