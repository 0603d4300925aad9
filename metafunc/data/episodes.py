"""Few-shot classification tasks from a data set of images."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from metafunc import options
from metafunc.data.augmentation import Augmentation, Normalization, augmented, check_normalize
from metafunc.data.dataset import ImageDataset
from metafunc.data.tasks import (
    Tasks,
    check_count,
    check_float,
    check_generator,
    refusal,
)


@final
@dataclass(frozen=True, slots=True)
class Episodes:
    """Samples tasks: `ways` classes, `shots` labelled images of each to learn from, `queries` others of each
    to be judged by.

    Classes are drawn without replacement within a task, and so are the images of a class: support and query
    never share one. The label of a class is its place in the draw, so that labels say nothing across tasks.

    Attributes:
        dataset: the classes to draw from, usually one split of a data set. Classes are equally likely, however
            many images they have.
        ways, shots, queries: as above; `queries` is for each class.
        rotations: each class turned by 0, 90, 180 and 270 degrees counts as four classes, as is customary for
            Omniglot. A task may then hold two turns of one letter, and of a letter that looks the same
            turned.
        augment: changes the images, floats from 0 to 1, [images, channels, height, width] -> the same shape: all
            those of the batch, support and query, in one call. Whatever it draws from torch's own chance is fixed
            by the task generator, and torch's own is left as it was.
        normalize: (mean, standard deviation) of each channel, a number or as many as there are channels;
            subtracted and divided by at the end. `dataset.statistics()` finds them.
        dtype: of the images. Bytes are divided by the data set's `peak`, so that ink is 1.0 and paper 0.0.
        device: where the tasks are, and where they are augmented. Default: where the images of the data set are, so
            that a data set that is too large for a GPU can stay in a file.

    Raises:
        ValueError: the data set has too few classes or images, or an option is out of range.
    """

    dataset: ImageDataset
    ways: int = 5
    shots: int = 1
    queries: int = 15
    rotations: bool = False
    augment: Augmentation | None = None
    normalize: Normalization | None = None
    dtype: torch.dtype = torch.float32
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        check_count("ways", self.ways)
        check_count("shots", self.shots)
        check_count("queries", self.queries)
        check_float("dtype", self.dtype)
        options.boolean("rotations", self.rotations)
        options.function("augment", self.augment, "augment(images) -> images", optional=True)
        height, width = self.dataset.images.shape[2:]
        if self.ways > self._classes:
            turned = ", rotations counted" if self.rotations else ""
            raise refusal(
                "ways",
                f"at most the {self._classes} classes of the data set{turned}",
                self.ways,
                "ask for fewer ways, or pass a data set with more classes",
            )
        fewest = int(self.dataset.sizes.argmin())
        if self.shots + self.queries > int(self.dataset.sizes[fewest]):
            raise refusal(
                "shots + queries",
                f"at most the {int(self.dataset.sizes[fewest])} images of class {self.dataset.names[fewest]!r}, "
                "since support and query share none",
                f"{self.shots} + {self.queries} = {self.shots + self.queries}",
                "ask for fewer queries, or `select` the classes with more images",
            )
        if self.rotations and height != width:
            raise refusal(
                "rotations",
                "square images",
                f"{height}x{width}",
                "crop the images to squares, or leave rotations out",
            )
        if self.normalize is not None:
            check_normalize(self.normalize, self.dataset.images.shape[1])

    @property
    def _classes(self) -> int:
        return len(self.dataset.names) * (4 if self.rotations else 1)

    def sample(self, tasks: int, generator: torch.Generator) -> Tasks:
        """Draws a batch of tasks, without a loop over tasks, classes or images.

        Args:
            tasks: how many.
            generator: the only source of chance: its state before the call fixes the tasks, and saving and
                restoring it resumes a run. A generator on the CPU gives the same tasks wherever the data set
                is (the same classes and images of them where there is an `augment` that draws on the device).

        Shapes: on `device`, support x [tasks, ways * shots, channels, height, width] of `dtype`
            and y int64 [tasks, ways * shots], class by class; query likewise with `queries` for `shots`.

        Cost: tasks * ways random numbers for each image of the largest class, and a copy of the images drawn; no
            other image is read.

        Raises:
            ValueError: `tasks` is not a whole number of at least 1, there is no generator, or `augment` changed the
                shape of the images.
        """
        check_count("tasks", tasks)
        check_generator(generator)
        data, each = self.dataset, self.shots + self.queries
        held, place = data.images.device, data.order.device
        device = held if self.device is None else torch.device(self.device)
        classes = _choose((tasks,), self._classes, self.ways, generator).to(place)
        letters = classes % len(data.names)
        drawn = _choose_below(data.sizes[letters], int(data.sizes.max()), each, generator)
        indices = data.order[data.starts[letters][..., None] + drawn]
        turns = (classes // len(data.names))[..., None].expand_as(indices)
        chosen = data.images[_support_first(indices, self.shots).to(held)].to(device)
        if self.rotations:
            chosen = _turn(chosen, _support_first(turns, self.shots).to(device))
        x = self._finished(chosen, generator)
        labels = torch.arange(self.ways, device=device)
        first = tasks * self.ways * self.shots
        return {
            "support": (
                x[:first].unflatten(0, (tasks, -1)),
                labels.repeat_interleave(self.shots).repeat(tasks, 1),
            ),
            "query": (
                x[first:].unflatten(0, (tasks, -1)),
                labels.repeat_interleave(self.queries).repeat(tasks, 1),
            ),
        }

    def _finished(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        # In place, here and below: on large images it is the new memory that takes the time.
        x = pixels.to(self.dtype).div_(self.dataset.peak)
        if self.augment is not None:
            x = augmented(self.augment, x, generator)
        if self.normalize is not None:
            mean, std = (torch.as_tensor(part).to(x).reshape(-1, 1, 1) for part in self.normalize)
            x = x.sub(mean).div_(std)
        return x


def _choose(batch: tuple[int, ...], among: int, count: int, generator: torch.Generator) -> Tensor:
    """For each of a batch, `count` different numbers below `among` in random order: int64 [*batch, count].

    Maths: the places of the `count` largest of `among` independent uniform numbers; all ordered choices are
    equally likely.
    """
    # float64 whatever torch's default dtype is: the default must not change the tasks, and float32 has ties.
    unit = torch.rand(*batch, among, generator=generator, device=generator.device, dtype=torch.float64)
    return unit.topk(count, dim=-1).indices


def _choose_below(bounds: Tensor, most: int, count: int, generator: torch.Generator) -> Tensor:
    """As `_choose`, but each of the batch below a bound of its own, which is `most` at most: int64 [*batch, count]."""
    unit = torch.rand(*bounds.shape, most, generator=generator, device=generator.device, dtype=torch.float64)
    unit = unit.to(bounds.device)
    beyond = torch.arange(most, device=bounds.device) >= bounds[..., None]
    return unit.masked_fill(beyond, -1.0).topk(count, dim=-1).indices


def _support_first(each: Tensor, shots: int) -> Tensor:
    """What belongs to the support images of all tasks, then what belongs to the query images:
    [tasks, ways, shots + queries] -> [all of them]. Each part is then a view of the whole."""
    return torch.cat([each[..., :shots].flatten(), each[..., shots:].flatten()])


def _turn(chosen: Tensor, turns: Tensor) -> Tensor:
    """Turns each image by a number of quarters: [images, channels, side, side], [images]."""
    side = chosen.shape[-1]
    places = torch.arange(side * side, device=chosen.device).reshape(side, side)
    sources = torch.stack([torch.rot90(places, quarters).flatten() for quarters in range(4)])
    pixels = chosen.flatten(-2)
    return pixels.gather(-1, sources[turns][:, None].expand_as(pixels)).reshape(chosen.shape)
