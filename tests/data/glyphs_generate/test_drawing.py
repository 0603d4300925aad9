import numpy as np

from metafunc.data.glyphs_generate.drawing import draw, normalise, plain
from metafunc.data.glyphs_generate.ink import euler

# A frame, 30 by 20, with strokes of 4.
FRAME = (
    np.array([(0.0, 0.0), (30.0, 0.0), (30.0, 20.0), (0.0, 20.0)]),
    np.array([(4.0, 4.0), (4.0, 16.0), (26.0, 16.0), (26.0, 4.0)]),
)
# The same, finely cut, as outlines of fonts are.
FINE = tuple(
    np.concatenate(
        [
            a + (b - a) * np.linspace(0, 1, 8, endpoint=False)[:, None]
            for a, b in zip(p, np.roll(p, -1, 0), strict=True)
        ]
    )
    for p in FRAME
)
# A comb of 16 teeth with gaps as wide as they are.
COMB = tuple(
    np.array([(2.0 * i, 0.0), (2.0 * i + 1, 0.0), (2.0 * i + 1, 80.0), (2.0 * i, 80.0)]) for i in range(16)
)


def seeded(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_normalise_centres_and_scales():
    points = np.concatenate(normalise(FRAME))
    assert np.allclose(points.min(axis=0), (-0.5, -1 / 3))
    assert np.allclose(points.max(axis=0), (0.5, 1 / 3))


def test_plain_fills_24_pixels():
    rows, columns = np.nonzero(plain(FRAME))
    assert (columns.min(), columns.max()) == (2, 25)
    assert (rows.min(), rows.max()) == (6, 21)


def test_drawings_differ_stay_inside_and_keep_the_hole():
    drawings = [draw([FINE], seeded(seed)) for seed in range(30)]
    assert all(ink is not None and euler(ink) == 0 for ink in drawings)
    stack = np.stack([ink for ink in drawings if ink is not None])
    assert len(np.unique(stack.reshape(30, -1), axis=0)) == 30
    assert not stack[:, 0].any() and not stack[:, -1].any()
    assert not stack[:, :, 0].any() and not stack[:, :, -1].any()
    longer = stack.any(axis=1).sum(axis=1)
    assert longer.min() >= 18
    assert longer.max() <= 26


def test_sizes_and_thicknesses_vary():
    drawings = np.stack([draw([FINE], seeded(seed)) for seed in range(30)])
    ink = drawings.sum(axis=(1, 2))
    assert ink.max() > 1.5 * ink.min()


def test_a_seed_gives_the_same_drawing():
    first, again, other = draw([FINE], seeded(1)), draw([FINE], seeded(1)), draw([FINE], seeded(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_outline_is_drawn_from():
    dot = (FRAME[0],)
    kinds = {euler(draw([FINE, dot], seeded(seed))) for seed in range(20)}
    assert kinds == {0, 1}


def test_what_is_too_fine_is_not_drawn():
    assert draw([COMB], seeded(0)) is None
