"""The whole data set, as the arrays of its file."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metafunc.data.glyphs_generate.distinct import distinct, same_form
from metafunc.data.glyphs_generate.drawing import draw
from metafunc.data.glyphs_generate.fonts import Face, faces
from metafunc.data.glyphs_generate.ink import Ink
from metafunc.data.glyphs_generate.letters import candidates

DRAWINGS = 20
"""Drawings of each letter, as in Omniglot."""

SEED = 0
"""The seed of the file that is shipped."""

_ORDER = ("train", "val", "test")


def generate(seed: int = SEED) -> dict[str, NDArray[Any]]:
    """Chooses the letters and draws each of them 20 times.

    Returns:
        The arrays that `metafunc.data.glyphs` reads: `bits`, the drawings with 8 pixels to a byte; `shape`,
        their [classes, drawings, channels, height, width]; and for each class its `names`, `splits` and
        `characters` (code points).

    Raises:
        ModuleNotFoundError: matplotlib, which brings the fonts, is missing.
    """
    family = faces()
    letters = sorted(distinct(candidates(family[0]), family), key=lambda letter: _ORDER.index(letter.split))
    tried = [(letter, drawings(letter.character, family, seed)) for letter in letters]
    drawn = [(letter, pictures) for letter, pictures in tried if pictures is not None]
    images = np.stack([pictures for _, pictures in drawn])[:, :, None]
    return {
        "bits": np.packbits(images),
        "shape": np.array(images.shape, dtype=np.int64),
        "names": np.array([letter.name for letter, _ in drawn]),
        "splits": np.array([letter.split for letter, _ in drawn]),
        "characters": np.array([letter.character for letter, _ in drawn], dtype=np.int32),
    }


def drawings(character: int, family: Sequence[Face], seed: int = SEED) -> Ink | None:
    """The 20 drawings of one letter, [20, 28, 28], or None where it is too fine for so few pixels.

    Each letter has its own random stream, so that its drawings do not depend on which others are drawn.
    """
    outlines = same_form([outline for face in family if (outline := face.outline(character))])
    rng = np.random.Generator(np.random.PCG64([seed, character]))
    pictures = [draw(outlines, rng) for _ in range(DRAWINGS)]
    intact = [picture for picture in pictures if picture is not None]
    return np.stack(intact) if len(intact) == DRAWINGS else None
