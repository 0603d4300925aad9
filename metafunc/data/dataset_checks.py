"""What a data set of images is checked for when it is built."""

from collections.abc import Mapping

import torch
from torch import Tensor

from metafunc.data.tasks import refusal


def kind(tensor: Tensor) -> str:
    """The dtype and shape of a tensor, as messages give them."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def check_images(images: Tensor, peak: int) -> None:
    """Raises unless these are bytes up to `peak`, [images, channels, height, width]."""
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise refusal(
            "images",
            "uint8 [images, channels, height, width]",
            kind(images),
            "keep the channel axis even if it is 1, and keep bytes",
        )
    if images.numel() == 0:
        raise refusal(
            "images", "at least one image", f"shape {list(images.shape)}", "leave out what is empty"
        )
    if not 1 <= peak <= 255:
        raise refusal("peak", "a byte from 1 to 255", peak, "give 255, or 1 for binary images")
    # With a peak of 255 there is nothing to find, and a look at all the bytes of a large file takes minutes.
    if peak < 255 and int(images.max()) > peak:
        raise refusal(
            "images",
            f"bytes up to peak={peak}",
            int(images.max()),
            "give the largest byte there may be as peak",
        )


def check_names(names: tuple[str, ...]) -> None:
    """Raises if two classes have one name."""
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise refusal(
            "names", "names that differ", f"{twice[0]!r} twice", "give each class a name of its own"
        )


def check_labels(labels: Tensor, images: int, names: tuple[str, ...]) -> None:
    """Raises unless there is a label for each image, and an image for each class."""
    if labels.dtype != torch.int64 or labels.shape != (images,):
        raise refusal(
            "labels", f"int64 [{images}], one for each image", kind(labels), "give the class of every image"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < -1 or high >= len(names):
        raise refusal(
            "labels",
            f"indices of the {len(names)} names, or -1 for an image of no class",
            f"{low} to {high}",
            "name every class once, and number the classes from 0",
        )
    sizes = labels[labels >= 0].bincount(minlength=len(names))
    if len(names) == 0 or int(sizes.min()) == 0:
        empty = f"class {names[int(sizes.argmin())]!r} without any" if names else "no class"
        raise refusal("labels", "at least one image of each class", empty, "leave out classes without images")


def check_splits(splits: Mapping[str, Tensor], classes: int) -> None:
    """Raises unless the splits have classes that exist, each of them once."""
    seen = torch.zeros(classes, dtype=torch.int64)
    for name, indices in splits.items():
        where = f"splits[{name!r}]"
        if indices.dtype != torch.int64 or indices.ndim != 1 or len(indices) == 0:
            raise refusal(
                where,
                "int64 [classes in the split], not empty",
                kind(indices),
                "pass torch.tensor([0, 1, ...])",
            )
        if int(indices.min()) < 0 or int(indices.max()) >= classes:
            got = f"{int(indices.min())} to {int(indices.max())}"
            raise refusal(where, f"indices from 0 to {classes - 1}", got, "index the classes by their names")
        seen += torch.bincount(indices.cpu(), minlength=classes)
        if int(seen.max()) > 1:
            again = int(seen.argmax())
            raise refusal(
                where,
                "classes that no split has had yet",
                f"class {again} again",
                "put each class into one split at most",
            )
