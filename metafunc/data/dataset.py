"""Images in classes, held in one tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from metafunc.data.dataset_checks import check_images, check_labels, check_names, check_splits
from metafunc.data.tasks import check_count, refusal

CHUNK = 1 << 26
"""So many bytes are looked at together by `statistics`."""


@final
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ImageDataset:
    """Images in classes of any sizes, a plain object: no download, no transforms, no loader.

    Attributes:
        images: bytes, uint8 [images, channels, height, width]. They may be mapped from a file that is larger than
            memory (`torch.from_file`): nothing here but `to` and `statistics` reads more of them than was asked for.
        labels: the class of each image, int64 [images], in any order. -1: of no class here, as images of other
            splits are, which share the tensor.
        names: the name of each class, such as "greek/capital-omega".
        splits: name of a split -> the indices of its classes, int64 [classes in it]. No class is in two
            splits.
        peak: the byte that a sampler turns into 1.0 (0 becomes 0.0): 255 for photographs, 1 for ink that is
            there or not.
        order: the indices of the images class by class, int64 [images of the classes]; found from the labels.
        starts: where in `order` each class begins, int64 [classes].
        sizes: how many images each class has, int64 [classes].

    Raises:
        ValueError: one of these is not as said, or a class has no image.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    splits: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    peak: int = 255
    order: Tensor = field(init=False)
    starts: Tensor = field(init=False)
    sizes: Tensor = field(init=False)

    def __post_init__(self) -> None:
        check_images(self.images, self.peak)
        check_names(self.names)
        check_labels(self.labels, len(self.images), self.names)
        check_splits(self.splits, len(self.names))
        foreign = int((self.labels < 0).sum())
        order = self.labels.argsort(stable=True)[foreign:]
        sizes = self.labels[order].bincount(minlength=len(self.names))
        # The only way to set a field of a frozen dataclass.
        object.__setattr__(self, "order", order)
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "starts", sizes.cumsum(0) - sizes)

    def __repr__(self) -> str:
        low, high = int(self.sizes.min()), int(self.sizes.max())
        per_class = f"{low}" if low == high else f"{low} to {high}"
        shape = "x".join(str(n) for n in self.images.shape[1:])
        splits = {name: len(indices) for name, indices in self.splits.items()}
        return (
            f"ImageDataset(classes={len(self.names)}, images={len(self.order)}, per_class={per_class}, "
            f"image={shape}, splits={splits})"
        )

    def split(self, name: str) -> "ImageDataset":
        """The classes of one split, as a data set without splits. The images are shared, not copied.

        Raises:
            ValueError: there is no split of that name.
        """
        if name not in self.splits:
            known = ", ".join(repr(known) for known in self.splits) or "no splits in this data set"
            raise refusal("split", f"one of {known}", repr(name), "pass the name of a split")
        return self.select(self.splits[name].tolist())

    def select(self, classes: Sequence[int | str]) -> "ImageDataset":
        """Some of the classes, in the order given, as a data set without splits. The images are shared, not copied.

        Args:
            classes: indices or names.

        Raises:
            ValueError: there is no class of that name or index, one is chosen twice, or none is.
        """
        chosen = [self._index(item) for item in classes]
        if not chosen or len(set(chosen)) != len(chosen):
            got = "one of them twice" if chosen else "none"
            raise refusal("classes", "at least one class, each once", got, "list the classes to keep")
        # One place more than there are classes: label -1 finds the last one, and stays -1.
        renumbered = torch.full((len(self.names) + 1,), -1, dtype=torch.int64)
        renumbered[chosen] = torch.arange(len(chosen))
        names = tuple(self.names[index] for index in chosen)
        return replace(self, labels=renumbered.to(self.labels.device)[self.labels], names=names, splits={})

    def resplit(self, seed: int = 0, **counts: int) -> "ImageDataset":
        """The same data set with its classes split at random: `resplit(train=1100, val=100, test=423)`.

        Classes that are left over are in no split. The images are shared, not copied.

        Args:
            seed: fixes which classes go where.
            counts: how many classes each split gets.

        Raises:
            ValueError: a count is not a whole number of at least 1, or there are fewer classes than asked for.
        """
        for name, count in counts.items():
            check_count(name, count)
        wanted, classes = sum(counts.values()), len(self.names)
        if wanted > classes:
            raise refusal(
                "counts", f"at most the {classes} classes of the data set in all", wanted, "ask for fewer"
            )
        shuffled = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
        parts: tuple[Tensor, ...] = torch.split(shuffled[:wanted], list(counts.values()))
        return replace(self, splits=dict(zip(counts, parts, strict=True)))

    def to(self, device: torch.device | str) -> "ImageDataset":
        """The same data set with its images on `device`, where samplers then build the tasks. Images of no class
        stay behind."""
        own = (self.labels >= 0).nonzero()[:, 0]
        images = self.images if len(own) == len(self.images) else self.images[own.to(self.images.device)]
        return replace(self, images=images.to(device), labels=self.labels[own].to(device))

    def statistics(self) -> tuple[Tensor, Tensor]:
        """The mean and the standard deviation of each channel, as `Episodes` takes them for `normalize`.

        Maths: over all pixels of the images that have a class, as floats from 0 to 1. They come of a count of the
        bytes, so that nothing is lost by rounding, however many pixels there are.

        Shapes: float64 [channels] each, on the CPU.

        Cost: reads every image once, 64 MB of them at a time.
        """
        channels = self.images.shape[1]
        counts = torch.zeros(channels, 256, dtype=torch.int64)
        # In the order of the file, which is far quicker to read than class by class.
        own = self.order.sort().values.to(self.images.device)
        parts: tuple[Tensor, ...] = torch.split(own, max(1, CHUNK // self.images[0].numel()))
        for part in parts:
            pixels = self.images[part].transpose(0, 1).flatten(1)
            counts += torch.stack([channel.bincount(minlength=256).cpu() for channel in pixels])
        values = torch.arange(256, dtype=torch.float64) / self.peak
        weights = counts / counts.sum(1, keepdim=True, dtype=torch.float64)
        mean = weights @ values
        variance = (weights * (values - mean[:, None]).square()).sum(1)
        return mean, variance.sqrt()

    def _index(self, item: int | str) -> int:
        if isinstance(item, str):
            if item not in self.names:
                raise refusal("classes", "names of classes", repr(item), "look at `names` of the data set")
            return self.names.index(item)
        if not 0 <= item < len(self.names):
            raise refusal("classes", f"indices from 0 to {len(self.names) - 1}", item, "index the classes")
        return item
