from collections import Counter
from importlib.resources import files

import pytest
import torch

from metafunc.data import Episodes, ImageDataset

SCRIPTS = {
    "train": {
        "canadian": 289,
        "latin": 194,
        "arabic": 180,
        "cyrillic": 93,
        "greek": 26,
        "coptic": 5,
        "lisu": 1,
    },
    "val": {"armenian": 45, "tifinagh": 42, "old-italic": 18, "ogham": 17},
    "test": {"georgian": 112, "lao": 45, "nko": 37, "hebrew": 24},
}


def test_the_file_is_small_and_has_its_licence_and_its_explanation_beside_it():
    folder = files("metafunc.data")
    assert len(folder.joinpath("glyphs.npz").read_bytes()) < 1_000_000
    licence = folder.joinpath("LICENSE_DEJAVU").read_text(encoding="utf-8")
    assert "Bitstream Vera Fonts Copyright" in licence
    assert "Tavmjong Bah" in licence
    explanation = folder.joinpath("README.md").read_text(encoding="utf-8")
    assert "synthetic" in explanation
    for split, scripts in SCRIPTS.items():
        assert f"| {split} | {sum(scripts.values())} |" in explanation


def test_sizes_and_kinds(letters):
    assert letters.images.shape == (22560, 1, 28, 28)
    assert letters.sizes.unique().tolist() == [20]
    assert torch.equal(letters.order, torch.arange(22560))
    assert letters.images.dtype == torch.uint8
    assert letters.images.max() == 1
    assert letters.peak == 1


def test_the_splits_are_by_script_and_have_every_class_once(letters):
    for split, scripts in SCRIPTS.items():
        found = Counter(name.split("/")[0] for name in letters.split(split).names)
        assert found == scripts
    indices = torch.cat(list(letters.splits.values()))
    assert torch.equal(indices.sort().values, torch.arange(1128))


def test_every_drawing_has_ink_that_fills_the_frame(letters):
    ink = letters.images.flatten(1).sum(-1)
    assert ink.min() >= 25
    assert ink.max() <= 0.5 * 28 * 28
    rows, columns = letters.images[:, 0].amax(2).sum(-1), letters.images[:, 0].amax(1).sum(-1)
    # The rows and columns with ink: the longer side of the letter, up to gaps between its pieces.
    longer = torch.maximum(rows, columns)
    assert longer.double().mean() > 20
    assert (longer >= 16).double().mean() > 0.99


def test_no_drawing_occurs_twice(letters):
    flat = letters.images.flatten(1)
    assert len(flat.unique(dim=0)) == len(flat)


@pytest.mark.parametrize(
    "alike",
    [
        ("latin/capital-a", "greek/capital-alpha", "cyrillic/capital-a", "lisu/a", "old-italic/a"),
        ("latin/capital-o", "latin/small-o", "greek/capital-omicron", "cyrillic/small-o", "latin/zero"),
        ("latin/capital-c", "latin/small-c", "cyrillic/capital-es", "cyrillic/small-es"),
        ("latin/capital-w", "latin/small-w", "cyrillic/capital-we", "lisu/wa"),
        ("greek/capital-psi", "greek/small-psi"),
    ],
)
def test_letters_that_look_alike_are_one_class(letters, alike):
    assert len(set(alike) & set(letters.names)) <= 1


def test_drawings_of_a_class_vary_but_belong_together(letters):
    ink = letters.images.reshape(1128, 20, -1).float()
    mean = ink.mean(1, keepdim=True)
    within = (ink - mean).square().sum(-1).mean()
    between = (ink - mean.roll(1, 0)).square().sum(-1).mean()
    other = (ink - mean.roll(400, 0)).square().sum(-1).mean()
    assert within > 40
    assert other > between > 1.2 * within


def nearest_neighbour(dataset: ImageDataset, ways: int, shots: int) -> float:
    """How often the nearest support image, pixel by pixel, has the label of a query."""
    tasks = Episodes(dataset, ways, shots).sample(6000 // ways**2, torch.Generator().manual_seed(0))
    (sx, sy), (qx, qy) = tasks["support"], tasks["query"]
    nearest = torch.cdist(qx.flatten(2), sx.flatten(2)).argmin(-1)
    return float((sy.gather(1, nearest) == qy).double().mean())


# Measured over 1,000 tasks: 0.457, 0.687 and 0.253.
@pytest.mark.parametrize(
    ("ways", "shots", "low", "high"), [(5, 1, 0.42, 0.49), (5, 5, 0.65, 0.72), (20, 1, 0.23, 0.28)]
)
def test_test_tasks_are_neither_trivial_nor_hopeless(letters, ways, shots, low, high):
    assert low < nearest_neighbour(letters.split("test"), ways, shots) < high
