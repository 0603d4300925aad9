"""What every form of few-shot image data gives."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""One image: uint8 [height, width, channels]."""

SPLITS = ("train", "val", "test")


@final
@dataclass(frozen=True, slots=True)
class Picture:
    """One image that has not been decoded yet.

    Attributes:
        where: what to call it in a message: its file, or its place in one.
        decode: gives its pixels, in the size they are stored in.
    """

    where: str
    decode: Callable[[], Pixels]


@final
@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with the data.

    Attributes:
        kind: the heading it belongs under in a report.
        text: which file or class, and what to do about it.
        fatal: whether reading refuses the data for it.
    """

    kind: str
    text: str
    fatal: bool = True


class Form(ABC):
    """A form in which people keep few-shot image data, and the data at one path.

    Subclasses are final frozen dataclasses with a field `path` and, where a choice has to be made, options. They
    read nothing before they are asked, so that a form is a cheap description of the data.

    Attributes:
        title: what it is called in a report.
        layout: the files it looks for, for the message when nothing is recognised.
        size: the side to which images are resized where the user does not say; None leaves them as they are.
    """

    __slots__ = ()

    title: ClassVar[str]
    layout: ClassVar[str]
    size: ClassVar[int | None] = None

    path: Path

    @classmethod
    @abstractmethod
    def find(cls, path: Path) -> "Form | None":
        """The data at `path` if it has this form, judged by the names of files alone."""

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The splits that are there."""

    @abstractmethod
    def files(self) -> Iterator[Path]:
        """Every file that the images depend on."""

    @abstractmethod
    def classes(self, split: str) -> Mapping[str, Sequence[Picture]]:
        """The images of each class of one split.

        Cost: where the images are one pickle, that is loaded, and lives as long as what is returned. So callers
        hold one split at a time.

        Raises:
            ValueError: the files of the split are not as they should be.
            ImportError: a package that this form needs is not installed.
        """

    def faults(self) -> Iterator[Fault]:
        """What is wrong with the files that the classes do not show."""
        yield from ()

    @property
    def peak(self) -> int:
        """The byte that stands for 1.0."""
        return 255
