"""Few-shot classification tasks from a data set of images."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

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

    Classes are drawn without replacement within a task, and so are the drawings of a class: support and query
    never share one. The label of a class is its place in the draw, so that labels say nothing across tasks.

    Attributes:
        dataset: the classes to draw from, usually one split of a data set.
        ways, shots, queries: as above; `queries` is for each class.
        rotations: each class turned by 0, 90, 180 and 270 degrees counts as four classes, as is customary for
            Omniglot. A task may then hold two turns of one letter, and of a letter that looks the same
            turned.
        dtype: of the images. Bytes are divided by the data set's `peak`, so that ink is 1.0 and paper 0.0.

    Raises:
        ValueError: the data set has too few classes or drawings, or an option is out of range.
    """

    dataset: ImageDataset
    ways: int = 5
    shots: int = 1
    queries: int = 15
    rotations: bool = False
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        check_count("ways", self.ways)
        check_count("shots", self.shots)
        check_count("queries", self.queries)
        check_float("dtype", self.dtype)
        _, drawings, _, height, width = self.dataset.images.shape
        if self.ways > self._classes:
            turned = ", rotations counted" if self.rotations else ""
            raise refusal(
                "ways",
                f"at most the {self._classes} classes of the data set{turned}",
                self.ways,
                "ask for fewer ways, or pass a data set with more classes",
            )
        if self.shots + self.queries > drawings:
            raise refusal(
                "shots + queries",
                f"at most the {drawings} drawings of a class, since support and query share none",
                f"{self.shots} + {self.queries} = {self.shots + self.queries}",
                "ask for fewer queries",
            )
        if self.rotations and height != width:
            raise refusal(
                "rotations",
                "square images",
                f"{height}x{width}",
                "crop the images to squares, or leave rotations out",
            )

    @property
    def _classes(self) -> int:
        return self.dataset.images.shape[0] * (4 if self.rotations else 1)

    def sample(self, tasks: int, generator: torch.Generator) -> Tasks:
        """Draws a batch of tasks, without a loop over tasks, classes or images.

        Args:
            tasks: how many.
            generator: the only source of chance: its state before the call fixes the tasks, and saving and
                restoring it resumes a run. A generator on the CPU gives the same tasks wherever the data set
                is.

        Shapes: on the data set's device, support x [tasks, ways * shots, channels, height, width] of `dtype`
            and y int64 [tasks, ways * shots], class by class; query likewise with `queries` for `shots`.

        Raises:
            ValueError: `tasks` is not a whole number of at least 1, or there is no generator.
        """
        check_count("tasks", tasks)
        check_generator(generator)
        images = self.dataset.images
        classes = _choose((tasks,), self._classes, self.ways, generator).to(images.device)
        each = self.shots + self.queries
        drawings = _choose((tasks, self.ways), images.shape[1], each, generator).to(images.device)
        chosen = images[classes[..., None] % images.shape[0], drawings]
        if self.rotations:
            chosen = _turn(chosen, classes // images.shape[0])
        labels = torch.arange(self.ways, device=images.device)[:, None].repeat(tasks, 1, each)
        support, query = slice(None, self.shots), slice(self.shots, None)
        return {
            "support": (self._floats(chosen[:, :, support]), labels[:, :, support].flatten(1)),
            "query": (self._floats(chosen[:, :, query]), labels[:, :, query].flatten(1)),
        }

    def _floats(self, chosen: Tensor) -> Tensor:
        return chosen.flatten(1, 2).to(self.dtype) / self.dataset.peak


def _choose(batch: tuple[int, ...], among: int, count: int, generator: torch.Generator) -> Tensor:
    """For each of a batch, `count` different numbers below `among` in random order: int64 [*batch, count].

    Maths: the places of the `count` largest of `among` independent uniform numbers; all ordered choices are
    equally likely.
    """
    # float64 whatever torch's default dtype is: the default must not change the tasks, and float32 has ties.
    unit = torch.rand(*batch, among, generator=generator, device=generator.device, dtype=torch.float64)
    return unit.topk(count, dim=-1).indices


def _turn(chosen: Tensor, turns: Tensor) -> Tensor:
    """Turns the images of each class by a number of quarters: [tasks, ways, each, channels, side, side],
    [tasks, ways]."""
    side = chosen.shape[-1]
    places = torch.arange(side * side, device=chosen.device).reshape(side, side)
    sources = torch.stack([torch.rot90(places, quarters).flatten() for quarters in range(4)])
    pixels = chosen.flatten(-2)
    return pixels.gather(-1, sources[turns][:, :, None, None].expand_as(pixels)).reshape(chosen.shape)
