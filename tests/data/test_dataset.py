import pickle
import re

import pytest
import torch

from metafunc.data import ImageDataset


def images(classes: int = 4, drawings: int = 3) -> torch.Tensor:
    """Bytes in which every pixel differs from its neighbours."""
    return (
        torch.arange(classes * drawings * 6)
        .remainder(200)
        .to(torch.uint8)
        .reshape(classes, drawings, 1, 2, 3)
    )


def dataset() -> ImageDataset:
    splits = {"train": torch.tensor([2, 0]), "test": torch.tensor([3])}
    return ImageDataset(images(), ("x/a", "x/b", "y/a", "y/b"), splits)


def test_split_has_the_classes_of_the_split_in_its_order():
    train = dataset().split("train")
    assert train.names == ("y/a", "x/a")
    assert torch.equal(train.images, images()[[2, 0]])
    assert train.splits == {}
    assert train.peak == 255


def test_split_keeps_the_peak():
    binary = ImageDataset(images() % 2, ("a", "b", "c", "d"), {"test": torch.tensor([1])}, peak=1)
    assert binary.split("test").peak == 1


def test_to_moves_the_images_and_keeps_the_rest():
    moved = dataset().to("cpu")
    assert torch.equal(moved.images, images())
    assert moved.names == dataset().names
    assert list(moved.splits) == ["train", "test"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_to_a_gpu_and_split_there():
    moved = dataset().to("cuda")
    assert moved.images.device.type == "cuda"
    assert torch.equal(moved.split("train").images.cpu(), dataset().split("train").images)


def test_repr_is_short():
    assert repr(dataset()) == (
        "ImageDataset(classes=4, drawings=3, image=1x2x3, splits={'train': 2, 'test': 1})"
    )


def test_it_is_frozen_and_can_be_pickled():
    with pytest.raises(AttributeError):
        dataset().peak = 3  # type: ignore[misc]
    again = pickle.loads(pickle.dumps(dataset()))
    assert torch.equal(again.images, images())
    assert again.names == dataset().names


NAMES = ("a", "b", "c", "d")
WRONG = {
    "dtype": (
        lambda: ImageDataset(images().float(), NAMES),
        (
            "images: expected uint8 [classes, drawings, channels, height, width], got float32 [4, 3, 1, 2, 3]. "
            "Stack classes of equal size, keep the channel axis even if it is 1, and keep bytes."
        ),
    ),
    "axes": (
        lambda: ImageDataset(images()[:, :, 0], NAMES),
        (
            "images: expected uint8 [classes, drawings, channels, height, width], got uint8 [4, 3, 2, 3]. "
            "Stack classes of equal size, keep the channel axis even if it is 1, and keep bytes."
        ),
    ),
    "empty": (
        lambda: ImageDataset(images()[:, :0], NAMES),
        "images: expected at least one image, got shape [4, 0, 1, 2, 3]. Leave out what is empty.",
    ),
    "peak is no byte": (
        lambda: ImageDataset(images(), NAMES, peak=256),
        "peak: expected a byte from 1 to 255, got 256. Give 255, or 1 for binary images.",
    ),
    "peak is too low": (
        lambda: ImageDataset(images(), NAMES, peak=1),
        "images: expected bytes up to peak=1, got 71. Give the largest byte there may be as peak.",
    ),
    "too few names": (
        lambda: ImageDataset(images(), NAMES[:3]),
        "names: expected one for each of the 4 classes, got 3. Name every class once.",
    ),
    "a name twice": (
        lambda: ImageDataset(images(), ("a", "b", "c", "b")),
        "names: expected names that differ, got 'b' twice. Give each class a name of its own.",
    ),
    "split of floats": (
        lambda: ImageDataset(images(), NAMES, {"test": torch.tensor([1.0]).float()}),
        (
            "splits['test']: expected int64 [classes in the split], not empty, got float32 [1]. "
            "Pass torch.tensor([0, 1, ...])."
        ),
    ),
    "empty split": (
        lambda: ImageDataset(images(), NAMES, {"test": torch.tensor([], dtype=torch.int64)}),
        (
            "splits['test']: expected int64 [classes in the split], not empty, got int64 [0]. "
            "Pass torch.tensor([0, 1, ...])."
        ),
    ),
    "split beyond the classes": (
        lambda: ImageDataset(images(), NAMES, {"test": torch.tensor([1, 4])}),
        "splits['test']: expected indices from 0 to 3, got 1 to 4. Index the classes of images.",
    ),
    "split below the classes": (
        lambda: ImageDataset(images(), NAMES, {"test": torch.tensor([-1, 2])}),
        "splits['test']: expected indices from 0 to 3, got -1 to 2. Index the classes of images.",
    ),
    "class in two splits": (
        lambda: ImageDataset(images(), NAMES, {"train": torch.tensor([0, 2]), "test": torch.tensor([2, 3])}),
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
        lambda: ImageDataset(images(), NAMES).split("test"),
        "split: expected one of no splits in this data set, got 'test'. Pass the name of a split.",
    ),
}


@pytest.mark.parametrize(("make", "text"), WRONG.values(), ids=WRONG)
def test_errors_say_what_to_do(make, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        make()
