"""Images in classes of equal size, held in one tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from metafunc.data.tasks import refusal


@final
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ImageDataset:
    """Images in classes, a plain object: no download, no transforms, no loader.

    Attributes:
        images: bytes, uint8 [classes, drawings, channels, height, width]. Every class has as many drawings as
            any other.
        names: the name of each class, such as "greek/capital-omega".
        splits: name of a split -> the indices of its classes, int64 [classes in it]. No class is in two
            splits.
        peak: the byte that a sampler turns into 1.0 (0 becomes 0.0): 255 for photographs, 1 for ink that is
            there or not.

    Shapes: `images.shape` has all the sizes.

    Raises:
        ValueError: one of these is not as said.
    """

    images: Tensor
    names: tuple[str, ...]
    splits: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    peak: int = 255

    def __post_init__(self) -> None:
        _check_images(self.images, self.peak)
        classes = self.images.shape[0]
        if len(self.names) != classes:
            raise refusal(
                "names", f"one for each of the {classes} classes", len(self.names), "name every class once"
            )
        if len(set(self.names)) != classes:
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise refusal(
                "names", "names that differ", f"{twice[0]!r} twice", "give each class a name of its own"
            )
        _check_splits(self.splits, classes)

    def __repr__(self) -> str:
        classes, drawings, *image = self.images.shape
        sizes = {name: len(indices) for name, indices in self.splits.items()}
        shape = "x".join(str(n) for n in image)
        return f"ImageDataset(classes={classes}, drawings={drawings}, image={shape}, splits={sizes})"

    def split(self, name: str) -> "ImageDataset":
        """The classes of one split, as a data set without splits.

        Raises:
            ValueError: there is no split of that name.
        """
        if name not in self.splits:
            known = ", ".join(repr(known) for known in self.splits) or "no splits in this data set"
            raise refusal("split", f"one of {known}", repr(name), "pass the name of a split")
        chosen = self.splits[name].to(self.images.device)
        names = tuple(self.names[int(index)] for index in chosen)
        return ImageDataset(self.images[chosen], names, peak=self.peak)

    def to(self, device: torch.device | str) -> "ImageDataset":
        """The same data set with its images on `device`, where samplers then build the tasks."""
        return replace(self, images=self.images.to(device))


def _check_images(images: Tensor, peak: int) -> None:
    if images.dtype != torch.uint8 or images.ndim != 5:
        raise refusal(
            "images",
            "uint8 [classes, drawings, channels, height, width]",
            f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}",
            "stack classes of equal size, keep the channel axis even if it is 1, and keep bytes",
        )
    if images.numel() == 0:
        raise refusal(
            "images", "at least one image", f"shape {list(images.shape)}", "leave out what is empty"
        )
    if not 1 <= peak <= 255:
        raise refusal("peak", "a byte from 1 to 255", peak, "give 255, or 1 for binary images")
    if int(images.max()) > peak:
        raise refusal(
            "images",
            f"bytes up to peak={peak}",
            int(images.max()),
            "give the largest byte there may be as peak",
        )


def _check_splits(splits: Mapping[str, Tensor], classes: int) -> None:
    seen = torch.zeros(classes, dtype=torch.int64)
    for name, indices in splits.items():
        where = f"splits[{name!r}]"
        if indices.dtype != torch.int64 or indices.ndim != 1 or len(indices) == 0:
            got = f"{str(indices.dtype).removeprefix('torch.')} {list(indices.shape)}"
            raise refusal(
                where, "int64 [classes in the split], not empty", got, "pass torch.tensor([0, 1, ...])"
            )
        if int(indices.min()) < 0 or int(indices.max()) >= classes:
            got = f"{int(indices.min())} to {int(indices.max())}"
            raise refusal(where, f"indices from 0 to {classes - 1}", got, "index the classes of images")
        seen += torch.bincount(indices.cpu(), minlength=classes)
        if int(seen.max()) > 1:
            again = int(seen.argmax())
            raise refusal(
                where,
                "classes that no split has had yet",
                f"class {again} again",
                "put each class into one split at most",
            )
