import pickle
import re

import pytest
import torch

from metafunc.data import ImageDataset

LABELS = torch.tensor([1, 0, 3, 2, 1, 0, 3, 1, -1])
"""Classes 0 and 3 have two images each, class 1 three, class 2 one; the last image is of no class."""
NAMES = ("x/a", "x/b", "y/a", "y/b")


def images(count: int = 9) -> torch.Tensor:
    """Bytes in which every pixel differs from its neighbours."""
    return torch.arange(count * 6).remainder(200).to(torch.uint8).reshape(count, 1, 2, 3)


def dataset() -> ImageDataset:
    splits = {"train": torch.tensor([2, 0]), "test": torch.tensor([3])}
    return ImageDataset(images(), LABELS, NAMES, splits)


def of_class(data: ImageDataset, index: int) -> list[int]:
    start, size = int(data.starts[index]), int(data.sizes[index])
    return data.order[start : start + size].tolist()


def test_images_are_found_by_their_class_in_the_order_of_the_file():
    data = dataset()
    assert data.sizes.tolist() == [2, 3, 1, 2]
    assert [of_class(data, c) for c in range(4)] == [[1, 5], [0, 4, 7], [3], [2, 6]]


def test_split_has_the_classes_of_the_split_in_its_order():
    train = dataset().split("train")
    assert train.names == ("y/a", "x/a")
    assert train.labels.tolist() == [-1, 1, -1, 0, -1, 1, -1, -1, -1]
    assert [of_class(train, c) for c in range(2)] == [[3], [1, 5]]
    assert train.splits == {}
    assert train.peak == 255


def test_split_keeps_the_peak():
    binary = ImageDataset(images() % 2, LABELS, NAMES, {"test": torch.tensor([1])}, peak=1)
    assert binary.split("test").peak == 1


def test_views_share_the_images():
    data = dataset()
    for view in (data.split("train"), data.select([1]), data.resplit(a=2), data.resplit(a=2).split("a")):
        assert view.images.data_ptr() == data.images.data_ptr()
        assert view.images.shape == data.images.shape


def test_select_takes_names_and_indices():
    chosen = dataset().select(["y/b", 1])
    assert chosen.names == ("y/b", "x/b")
    assert [of_class(chosen, c) for c in range(2)] == [[2, 6], [0, 4, 7]]
    again = chosen.select([1])
    assert (again.names, of_class(again, 0)) == (("x/b",), [0, 4, 7])


def test_resplit_has_each_class_once_and_follows_the_seed():
    names = tuple(str(i) for i in range(30))
    data = ImageDataset(images(30), torch.arange(30), names)
    split = data.resplit(train=20, val=3, test=5)
    assert {name: len(indices) for name, indices in split.splits.items()} == {
        "train": 20,
        "val": 3,
        "test": 5,
    }
    assert len(torch.cat(list(split.splits.values())).unique()) == 28
    same, other = (data.resplit(seed=seed, train=20).splits["train"] for seed in (0, 1))
    assert torch.equal(split.splits["train"], same)
    assert not torch.equal(same, other)


def test_to_takes_along_the_images_of_its_own_classes():
    moved = dataset().to("cpu")
    assert torch.equal(moved.images, images()[:8])
    assert torch.equal(moved.labels, LABELS[:8])
    assert moved.names == NAMES
    assert list(moved.splits) == ["train", "test"]
    train = dataset().split("train").to("cpu")
    assert torch.equal(train.images, images()[[1, 3, 5]])
    assert train.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("chunk", [1, 13, 1 << 26])
def test_statistics_by_hand(monkeypatch, chunk):
    monkeypatch.setattr("metafunc.data.dataset.CHUNK", chunk)
    colours = torch.randint(256, (9, 3, 4, 5), dtype=torch.uint8)
    mean, std = ImageDataset(colours, LABELS, NAMES).statistics()
    # The image of no class does not count.
    pixels = colours[:8].double().transpose(0, 1).flatten(1) / 255
    torch.testing.assert_close(mean, pixels.mean(1), rtol=1e-13, atol=0)
    torch.testing.assert_close(std, pixels.std(1, correction=0), rtol=1e-13, atol=0)


def test_statistics_are_in_units_of_the_peak(letters):
    mean, std = letters.statistics()
    ink = letters.images.double().mean()
    torch.testing.assert_close(mean, ink[None])
    torch.testing.assert_close(std, (ink * (1 - ink)).sqrt()[None])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_to_a_gpu_and_split_there():
    moved = dataset().to("cuda").split("train")
    assert moved.images.device.type == moved.order.device.type == "cuda"
    assert torch.equal(moved.images[moved.order].cpu(), images()[[3, 1, 5]])


def test_repr_is_short():
    assert repr(dataset()) == (
        "ImageDataset(classes=4, images=8, per_class=1 to 3, image=1x2x3, splits={'train': 2, 'test': 1})"
    )
    assert repr(dataset().split("test")) == (
        "ImageDataset(classes=1, images=2, per_class=2, image=1x2x3, splits={})"
    )


def test_it_is_frozen_and_can_be_pickled():
    with pytest.raises(AttributeError):
        dataset().peak = 3  # type: ignore[misc]
    again = pickle.loads(pickle.dumps(dataset()))
    assert torch.equal(again.images, images())
    assert again.names == dataset().names
    assert torch.equal(again.order, dataset().order)


WRONG = {
    "dtype": (
        lambda: ImageDataset(images().float(), LABELS, NAMES),
        (
            "images: expected uint8 [images, channels, height, width], got float32 [9, 1, 2, 3]. "
            "Keep the channel axis even if it is 1, and keep bytes."
        ),
    ),
    "axes": (
        lambda: ImageDataset(images()[:, 0], LABELS, NAMES),
        (
            "images: expected uint8 [images, channels, height, width], got uint8 [9, 2, 3]. "
            "Keep the channel axis even if it is 1, and keep bytes."
        ),
    ),
    "empty": (
        lambda: ImageDataset(images()[:0], LABELS, NAMES),
        "images: expected at least one image, got shape [0, 1, 2, 3]. Leave out what is empty.",
    ),
    "peak is no byte": (
        lambda: ImageDataset(images(), LABELS, NAMES, peak=256),
        "peak: expected a byte from 1 to 255, got 256. Give 255, or 1 for binary images.",
    ),
    "peak is too low": (
        lambda: ImageDataset(images(), LABELS, NAMES, peak=1),
        "images: expected bytes up to peak=1, got 53. Give the largest byte there may be as peak.",
    ),
    "labels of another count": (
        lambda: ImageDataset(images(), LABELS[:8], NAMES),
        "labels: expected int64 [9], one for each image, got int64 [8]. Give the class of every image.",
    ),
    "labels of another dtype": (
        lambda: ImageDataset(images(), LABELS.int(), NAMES),
        "labels: expected int64 [9], one for each image, got int32 [9]. Give the class of every image.",
    ),
    "too few names": (
        lambda: ImageDataset(images(), LABELS, NAMES[:3]),
        (
            "labels: expected indices of the 3 names, or -1 for an image of no class, got -1 to 3. "
            "Name every class once, and number the classes from 0."
        ),
    ),
    "labels below -1": (
        lambda: ImageDataset(images(), LABELS - 1, NAMES),
        (
            "labels: expected indices of the 4 names, or -1 for an image of no class, got -2 to 2. "
            "Name every class once, and number the classes from 0."
        ),
    ),
    "a class without images": (
        lambda: ImageDataset(images(), LABELS, (*NAMES, "z/a")),
        (
            "labels: expected at least one image of each class, got class 'z/a' without any. "
            "Leave out classes without images."
        ),
    ),
    "no class": (
        lambda: ImageDataset(images(), torch.full((9,), -1), ()),
        "labels: expected at least one image of each class, got no class. Leave out classes without images.",
    ),
    "a name twice": (
        lambda: ImageDataset(images(), LABELS, ("a", "b", "c", "b")),
        "names: expected names that differ, got 'b' twice. Give each class a name of its own.",
    ),
    "no such class": (
        lambda: dataset().select(["x/c"]),
        "classes: expected names of classes, got 'x/c'. Look at `names` of the data set.",
    ),
    "no such index": (
        lambda: dataset().select([0, -1]),
        "classes: expected indices from 0 to 3, got -1. Index the classes.",
    ),
    "a class chosen twice": (
        lambda: dataset().select([0, "x/a"]),
        "classes: expected at least one class, each once, got one of them twice. List the classes to keep.",
    ),
    "none chosen": (
        lambda: dataset().select([]),
        "classes: expected at least one class, each once, got none. List the classes to keep.",
    ),
    "too large a split": (
        lambda: dataset().resplit(train=3, test=2),
        "counts: expected at most the 4 classes of the data set in all, got 5. Ask for fewer.",
    ),
    "no count": (
        lambda: dataset().resplit(train=0),
        "train: expected an integer of at least 1, got 0. Give train such a value, e.g. train=5.",
    ),
    "split of floats": (
        lambda: ImageDataset(images(), LABELS, NAMES, {"test": torch.tensor([1.0]).float()}),
        (
            "splits['test']: expected int64 [classes in the split], not empty, got float32 [1]. "
            "Pass torch.tensor([0, 1, ...])."
        ),
    ),
    "empty split": (
        lambda: ImageDataset(images(), LABELS, NAMES, {"test": torch.tensor([], dtype=torch.int64)}),
        (
            "splits['test']: expected int64 [classes in the split], not empty, got int64 [0]. "
            "Pass torch.tensor([0, 1, ...])."
        ),
    ),
    "split beyond the classes": (
        lambda: ImageDataset(images(), LABELS, NAMES, {"test": torch.tensor([1, 4])}),
        "splits['test']: expected indices from 0 to 3, got 1 to 4. Index the classes by their names.",
    ),
    "split below the classes": (
        lambda: ImageDataset(images(), LABELS, NAMES, {"test": torch.tensor([-1, 2])}),
        "splits['test']: expected indices from 0 to 3, got -1 to 2. Index the classes by their names.",
    ),
    "class in two splits": (
        lambda: ImageDataset(
            images(), LABELS, NAMES, {"train": torch.tensor([0, 2]), "test": torch.tensor([2, 3])}
        ),
        (
            "splits['test']: expected classes that no split has had yet, got class 2 again. "
            "Put each class into one split at most."
        ),
    ),
    "no such split": (
        lambda: dataset().split("valid"),
        "split: expected one of 'train', 'test', got 'valid'. Pass the name of a split.",
    ),
    "no splits": (
        lambda: ImageDataset(images(), LABELS, NAMES).split("test"),
        "split: expected one of no splits in this data set, got 'test'. Pass the name of a split.",
    ),
}


@pytest.mark.parametrize(("make", "text"), WRONG.values(), ids=WRONG)
def test_errors_say_what_to_do(make, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        make()
