import os
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from metafunc.data import Episodes, ImageDataset, Tasks

CLASSES, DRAWINGS = 12, 7


def coded(classes: int = CLASSES, drawings: int = DRAWINGS) -> ImageDataset:
    """Images that tell who they are: two corners hold class and drawing, a third one says which way is up."""
    return uneven([drawings] * classes)


def uneven(sizes: list[int], *, shuffled: bool = False) -> ImageDataset:
    """As `coded`, of classes with so many drawings each."""
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    images = torch.zeros(len(labels), 1, 3, 3, dtype=torch.uint8)
    images[:, 0, 0, 0] = labels
    images[:, 0, 0, 2] = torch.cat([torch.arange(size) for size in sizes])
    images[:, 0, 2, 2] = 255
    order = torch.randperm(len(labels)) if shuffled else torch.arange(len(labels))
    return ImageDataset(images[order], labels[order], tuple(str(c) for c in range(len(sizes))))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def identities(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class and drawing of images of `coded`, [tasks, images] each."""
    pixels = (x[:, :, 0] * 255).round().to(torch.int64)
    return pixels[..., 0, 0], pixels[..., 0, 2]


def same(a: Tasks, b: Tasks) -> bool:
    parts = ("support", "query")
    return all(torch.equal(s, t) for part in parts for s, t in zip(a[part], b[part], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes(dtype):
    tasks = Episodes(coded(), ways=4, shots=2, queries=3, dtype=dtype).sample(6, seeded())
    assert list(tasks) == ["support", "query"]
    (sx, sy), (qx, qy) = tasks["support"], tasks["query"]
    assert sx.shape == (6, 8, 1, 3, 3)
    assert qx.shape == (6, 12, 1, 3, 3)
    assert sx.dtype == qx.dtype == dtype
    assert sy.shape == (6, 8)
    assert qy.shape == (6, 12)
    assert sy.dtype == qy.dtype == torch.int64


def test_every_label_stands_for_one_class_and_has_its_share():
    tasks = Episodes(coded(), ways=5, shots=2, queries=4).sample(50, seeded())
    for part, each in (("support", 2), ("query", 4)):
        y = tasks[part][1]
        assert torch.equal(torch.nn.functional.one_hot(y, 5).sum(1), torch.full((50, 5), each))
    classes = [identities(tasks[part][0])[0] for part in ("support", "query")]
    by_label = classes[0].reshape(50, 5, 2)[..., 0]
    assert all(len(set(row.tolist())) == 5 for row in by_label)
    for found, part in zip(classes, ("support", "query"), strict=True):
        assert torch.equal(found, by_label.gather(1, tasks[part][1]))


def test_no_drawing_is_drawn_twice_in_a_task():
    tasks = Episodes(coded(), ways=3, shots=3, queries=4).sample(200, seeded())
    (c, d), (e, f) = (identities(tasks[part][0]) for part in ("support", "query"))
    drawn = torch.cat([c * DRAWINGS + d, e * DRAWINGS + f], dim=1)
    assert all(len(set(row.tolist())) == 3 * DRAWINGS for row in drawn)


def test_the_images_are_those_of_the_data_set():
    dataset = coded()
    x, _ = Episodes(dataset, ways=3, dtype=torch.float64, queries=2).sample(20, seeded())["query"]
    classes, drawings = identities(x)
    assert torch.equal(x, dataset.images[classes * DRAWINGS + drawings].double() / 255)


def test_ink_is_one_and_paper_is_zero(letters):
    x, _ = Episodes(letters).sample(4, seeded())["support"]
    assert x.unique().tolist() == [0.0, 1.0]


def test_the_state_of_the_generator_fixes_the_tasks():
    episodes = Episodes(coded(), queries=2, rotations=True)
    assert same(episodes.sample(5, seeded(3)), episodes.sample(5, seeded(3)))
    assert not same(episodes.sample(5, seeded(3)), episodes.sample(5, seeded(4)))


def test_a_run_resumes_from_the_state_of_the_generator():
    episodes, generator = Episodes(coded(), queries=2), seeded()
    episodes.sample(5, generator)
    state = generator.get_state()
    batches = [episodes.sample(5, generator) for _ in range(3)]
    resumed = torch.Generator()
    resumed.set_state(state)
    assert all(same(batch, episodes.sample(5, resumed)) for batch in batches)
    assert not any(same(a, b) for a, b in pairwise(batches))


def test_the_default_dtype_of_torch_changes_nothing():
    tasks = []
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        tasks.append(Episodes(coded(), queries=2).sample(3, seeded()))
    for part in ("support", "query"):
        assert all(torch.equal(a, b) for a, b in zip(tasks[0][part], tasks[1][part], strict=True))


def test_no_other_chance_is_used_or_changed():
    before = torch.get_rng_state()
    Episodes(coded(), queries=2, rotations=True).sample(3, seeded())
    assert torch.equal(before, torch.get_rng_state())


def chi_square(found: torch.Tensor, kinds: int) -> float:
    counts = found.flatten().bincount(minlength=kinds).double()
    expected = counts.sum() / kinds
    return float(((counts - expected) ** 2 / expected).sum())


# Images in one place are independent across tasks, so that the statistic is chi-square; the bounds are its
# quantiles at 0.1 % and 99.9 %, for 11 degrees of freedom and for 6.
def test_each_class_is_equally_likely_in_each_place():
    x, _ = Episodes(coded(), ways=4, queries=2).sample(6000, seeded())["support"]
    for place in identities(x)[0].T:
        assert 1.59 < chi_square(place, CLASSES) < 31.26


def test_each_drawing_is_equally_likely_in_support_and_query():
    tasks = Episodes(coded(), ways=2, queries=2).sample(6000, seeded())
    for part in ("support", "query"):
        for place in identities(tasks[part][0])[1].T:
            assert 0.38 < chi_square(place, DRAWINGS) < 22.46


def test_pairs_of_classes_are_equally_likely():
    x, _ = Episodes(coded(5), ways=2, queries=2).sample(6000, seeded())["support"]
    first, second = identities(x)[0].T
    pair = first * 4 + second - (second > first).long()
    # Quantiles at 0.1 % and 99.9 % for 19 degrees of freedom.
    assert 5.41 < chi_square(pair, 20) < 43.82


def turns(x: torch.Tensor) -> torch.Tensor:
    """By how many quarters images of `coded` are turned: the bright corner goes round against the clock."""
    corners = torch.stack([x[..., 2, 2], x[..., 0, 2], x[..., 0, 0], x[..., 2, 0]], dim=-1)
    return corners[:, :, 0].argmax(-1)


def test_rotations_are_classes_of_their_own():
    dataset = coded()
    episodes = Episodes(dataset, ways=4 * CLASSES, shots=1, queries=3, rotations=True, dtype=torch.float64)
    tasks = episodes.sample(3, seeded())
    (sx, sy), (qx, qy) = tasks["support"], tasks["query"]

    def units(x: torch.Tensor) -> torch.Tensor:
        quarters = turns(x)
        upright = torch.stack([torch.rot90(x, -k, (-2, -1)) for k in range(4)])
        upright = upright.gather(0, quarters[None, ..., None, None, None].expand(1, *x.shape))[0]
        classes, drawings = identities(upright)
        assert torch.equal(upright, dataset.images[classes * DRAWINGS + drawings].double() / 255)
        return classes * 4 + quarters

    # With as many ways as there are turned classes each of them is there once, whole.
    assert torch.equal(units(sx).sort(dim=1).values, torch.arange(4 * CLASSES).expand(3, -1))
    assert torch.equal(units(qx), units(sx).gather(1, qy))
    assert torch.equal(sy, torch.arange(4 * CLASSES).expand(3, -1))


def test_each_turn_is_equally_likely():
    x, _ = Episodes(coded(), ways=1, queries=2, rotations=True).sample(6000, seeded())["support"]
    # Quantiles at 0.1 % and 99.9 % for 3 degrees of freedom.
    assert 0.024 < chi_square(turns(x), 4) < 16.27


def test_nothing_is_turned_without_rotations():
    x, _ = Episodes(coded(), queries=2).sample(100, seeded())["support"]
    assert turns(x).unique().tolist() == [0]


def test_colour_images_keep_their_channels():
    images = torch.arange(2 * 3 * 3 * 4).to(torch.uint8).reshape(6, 3, 2, 2)
    colours = ImageDataset(images, torch.tensor([0, 1, 0, 1, 1, 0]), ("a", "b"))
    x, _ = Episodes(colours, ways=2, queries=2, rotations=True).sample(5, seeded())["query"]
    assert x.shape == (5, 4, 3, 2, 2)
    assert x.max() <= 71 / 255


def test_tasks_are_where_they_are_asked_for() -> None:
    """The device without memory stands in for a GPU; the data set stays where it is."""
    tasks = Episodes(coded(), queries=2, rotations=True, normalize=(0.5, 0.5), device="meta").sample(
        5, seeded()
    )
    assert all(x.device.type == "meta" for part in (tasks["support"], tasks["query"]) for x in part)
    assert tasks["support"][0].shape == (5, 5, 1, 3, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("rotations", [False, True])
def test_a_cpu_generator_gives_the_same_tasks_on_a_gpu(rotations):
    here = Episodes(coded(), queries=2, rotations=rotations).sample(5, seeded())
    there = Episodes(coded().to("cuda"), queries=2, rotations=rotations).sample(5, seeded())
    for part in ("support", "query"):
        assert there[part][0].device.type == there[part][1].device.type == "cuda"
        assert all(torch.equal(a, b.cpu()) for a, b in zip(here[part], there[part], strict=True))
    on_device = torch.Generator("cuda").manual_seed(0)
    assert Episodes(coded().to("cuda"), queries=2).sample(5, on_device)["support"][0].shape == (5, 5, 1, 3, 3)


def test_vmap_takes_the_tasks_as_they_are():
    tasks = Episodes(coded(), ways=3, shots=2, queries=2).sample(4, seeded())
    means = torch.func.vmap(lambda task: task["support"][0].mean() + task["query"][1].float().mean())(tasks)
    assert means.shape == (4,)


def test_classes_of_uneven_sizes_are_equally_likely_and_so_are_their_drawings():
    sizes = [3, 11, 5, 7]
    tasks = Episodes(uneven(sizes, shuffled=True), ways=2, shots=1, queries=2).sample(6000, seeded())
    classes, drawings = identities(tasks["support"][0])
    # Quantiles at 0.1 % and 99.9 % for 3, 2, 10, 4 and 6 degrees of freedom.
    assert 0.024 < chi_square(classes[:, 0], 4) < 16.27
    for size, low, high in zip(sizes, (0.002, 1.48, 0.09, 0.38), (13.82, 29.59, 18.47, 22.46), strict=True):
        found = drawings[:, 0][classes[:, 0] == sizes.index(size)]
        assert found.max() == size - 1
        assert low < chi_square(found, size) < high
    (c, d), (e, f) = (identities(tasks[part][0]) for part in ("support", "query"))
    drawn = torch.cat([c * 20 + d, e * 20 + f], dim=1)
    assert all(len(set(row.tolist())) == 6 for row in drawn)


def test_a_split_gives_the_same_tasks_as_its_images_alone():
    data = uneven([5, 8, 6, 7], shuffled=True)
    view = data.select([3, 1])
    alone = view.to("cpu")
    assert len(alone.images) == 15
    of_view, of_alone = (Episodes(d, ways=2, queries=3).sample(4, seeded()) for d in (view, alone))
    assert same(of_view, of_alone)
    assert identities(of_view["query"][0])[0].unique().tolist() == [1, 3]


def test_only_the_images_drawn_are_read(tmp_path):
    """A file with holes, far larger than what the disk holds of it, is read at a few places."""
    file, count, side = tmp_path / "images.bin", 20_000, 84
    with file.open("wb") as stream:
        stream.truncate(count * 3 * side * side)
    mapped = torch.from_file(str(file), shared=False, size=count * 3 * side * side, dtype=torch.uint8)
    labels = torch.arange(count) % 40
    data = ImageDataset(mapped.reshape(count, 3, side, side), labels, tuple(str(c) for c in range(40)))
    before = resident()
    x, _ = Episodes(data.select(range(20))).sample(2, seeded())["query"]
    assert x.shape == (2, 75, 3, side, side)
    # The whole is 423 MB; the tasks take 160 images of 21 kB as bytes, and as floats four times that.
    assert resident() - before < 100e6


def resident() -> int:
    """Bytes of memory this process holds."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs Linux to tell the memory in use")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def noisy(x: torch.Tensor) -> torch.Tensor:
    return x + torch.rand_like(x)


def test_augmentations_see_images_and_are_fixed_by_the_generator():
    episodes = Episodes(coded(), queries=2, augment=noisy)
    before = torch.get_rng_state()
    first = episodes.sample(3, seeded())
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(5)
    again = episodes.sample(3, seeded())
    assert same(first, again)
    plain = Episodes(coded(), queries=2).sample(3, seeded())
    assert torch.equal(plain["query"][1], first["query"][1])
    change = first["query"][0] - plain["query"][0]
    assert 0 <= change.min() < change.max() < 1
    generator = seeded()
    assert not same(episodes.sample(3, generator), episodes.sample(3, generator))


def test_augment_gets_all_images_of_the_batch_at_once():
    seen = []
    Episodes(coded(), ways=4, queries=2, augment=lambda x: seen.append(x) or x).sample(3, seeded())
    (x,) = seen
    assert x.shape == (36, 1, 3, 3)
    assert (x.min(), x.max()) == (0, 1)


def test_kornia_augments_reproducibly():
    kornia = pytest.importorskip("kornia.augmentation", reason="needs kornia")
    chance = kornia.AugmentationSequential(
        kornia.RandomHorizontalFlip(p=0.5), kornia.RandomBrightness((0.5, 1.5), p=1.0)
    )
    # kornia draws in torch's default dtype.
    episodes = Episodes(coded(), queries=2, augment=chance, dtype=torch.get_default_dtype())
    assert same(episodes.sample(3, seeded(1)), episodes.sample(3, seeded(1)))
    assert not same(episodes.sample(3, seeded(1)), Episodes(coded(), queries=2).sample(3, seeded(1)))
    assert not same(episodes.sample(3, seeded(1)), episodes.sample(3, seeded(2)))


def test_images_are_normalized_after_augmentation():
    colours = ImageDataset(
        torch.randint(256, (8, 3, 2, 2), dtype=torch.uint8), torch.arange(8) % 2, ("a", "b")
    )
    few = {"ways": 2, "queries": 3, "dtype": torch.float64}
    plain = Episodes(colours, **few).sample(2, seeded())["query"][0]
    mean, std = colours.statistics()
    found = Episodes(colours, **few, normalize=(mean, std)).sample(2, seeded())["query"][0]
    for channel in range(3):
        torch.testing.assert_close(
            found[:, :, channel], (plain[:, :, channel] - mean[channel]) / std[channel]
        )
    doubled = Episodes(colours, **few, normalize=(0.5, 0.25), augment=lambda x: 2 * x).sample(2, seeded())
    torch.testing.assert_close(doubled["query"][0], (2 * plain - 0.5) / 0.25)


def oblong() -> ImageDataset:
    return ImageDataset(
        torch.zeros(6, 1, 2, 3, dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1, 1]), ("a", "b")
    )


COUNT = "expected an integer of at least 1, got"
WRONG = {
    "ways": (lambda: Episodes(coded(), ways=0), f"ways: {COUNT} 0. Give ways such a value, e.g. ways=5."),
    "shots": (
        lambda: Episodes(coded(), shots=1.0),
        f"shots: {COUNT} float 1.0. Give shots such a value, e.g. shots=5.",
    ),  # type: ignore[arg-type]
    "queries": (
        lambda: Episodes(coded(), queries=-1),
        f"queries: {COUNT} -1. Give queries such a value, e.g. queries=5.",
    ),
    "dtype": (
        lambda: Episodes(coded(), dtype=torch.int64),
        "dtype: expected a floating-point dtype, got torch.int64. Give torch.float32 or torch.float64, say.",
    ),
    "too many ways": (
        lambda: Episodes(coded(), ways=13, queries=2),
        (
            "ways: expected at most the 12 classes of the data set, got 13. "
            "Ask for fewer ways, or pass a data set with more classes."
        ),
    ),
    "too many turned ways": (
        lambda: Episodes(coded(), ways=49, queries=2, rotations=True),
        (
            "ways: expected at most the 48 classes of the data set, rotations counted, got 49. "
            "Ask for fewer ways, or pass a data set with more classes."
        ),
    ),
    "too many drawings": (
        lambda: Episodes(coded(), shots=3, queries=5),
        (
            "shots + queries: expected at most the 7 images of class '0', since support and query share none, "
            "got 3 + 5 = 8. Ask for fewer queries, or `select` the classes with more images."
        ),
    ),
    "too few images of one class": (
        lambda: Episodes(uneven([9, 4, 9]), ways=2, shots=2, queries=3),
        (
            "shots + queries: expected at most the 4 images of class '1', since support and query share none, "
            "got 2 + 3 = 5. Ask for fewer queries, or `select` the classes with more images."
        ),
    ),
    "turning what is not square": (
        lambda: Episodes(oblong(), ways=2, queries=2, rotations=True),
        "rotations: expected square images, got 2x3. Crop the images to squares, or leave rotations out.",
    ),
    "one thing to normalize by": (
        lambda: Episodes(coded(), queries=2, normalize=(0.5,)),  # type: ignore[arg-type]
        "normalize: expected (mean, standard deviation), got 1 things. Give both, and no more.",
    ),
    "means of other channels": (
        lambda: Episodes(coded(), queries=2, normalize=((0.1, 0.2, 0.3), 1.0)),
        (
            "mean of normalize: expected a number, or one for each of the 1 channels, got shape [3]. "
            "Pass dataset.statistics(), say."
        ),
    ),
    "no finite mean": (
        lambda: Episodes(coded(), queries=2, normalize=(float("nan"), 1.0)),
        (
            "mean of normalize: expected finite numbers, got nan. "
            "Leave out images without contrast, and compute it again."
        ),
    ),
    "no deviation": (
        lambda: Episodes(coded(), queries=2, normalize=(0.5, 0.0)),
        (
            "standard deviation of normalize: expected finite numbers above 0, got 0.0. "
            "Leave out images without contrast, and compute it again."
        ),
    ),
    "augment that crops": (
        lambda: Episodes(coded(), queries=2, augment=lambda x: x[..., 1:]).sample(1, seeded()),
        (
            "augment: expected images of the shape they had, [15, 1, 3, 3], got [15, 1, 3, 2]. "
            "Crop to the size of the images, and keep every image."
        ),
    ),
    "tasks": (
        lambda: Episodes(coded(), queries=2).sample(0, seeded()),
        f"tasks: {COUNT} 0. Give tasks such a value, e.g. tasks=5.",
    ),
    "generator": (
        lambda: Episodes(coded(), queries=2).sample(1, 0),  # type: ignore[arg-type]
        "generator: expected a torch.Generator, got int. Pass torch.Generator().manual_seed(0), say.",
    ),
}


@pytest.mark.parametrize(("make", "text"), WRONG.values(), ids=WRONG)
def test_errors_say_what_to_do(make, text):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(text)}$"):
        make()


def test_as_many_ways_and_drawings_as_there_are_will_do():
    assert Episodes(coded(), ways=12, shots=3, queries=4).sample(1, seeded())["query"][1].shape == (1, 48)
    assert Episodes(oblong(), ways=2, queries=2).sample(1, seeded())["query"][0].shape == (1, 4, 1, 2, 3)
