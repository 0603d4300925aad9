"""tieredImageNet as pickles of PNG files."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast, final

import numpy as np

from metafunc.data.formats.form import SPLITS, Form, Picture, Pixels
from metafunc.data.formats.pixels import describe, encoded
from metafunc.data.formats.unpickle import entries, has, load, number, text
from metafunc.data.tasks import refusal

INTEGERS, TITLES = "label_specific", "label_specific_str"


@final
@dataclass(frozen=True, slots=True)
class PngPickles(Form):
    """`{train,val,test}_images_png.pkl`, a list of PNG files, and `{split}_labels.pkl`, a dict with `label_specific`,
    an integer an image.

    Source: the files of Ren et al. (2018). The integers start at 0 in every split, so a class is named by
    `label_specific_str` where the file has it, and else by its split and its integer.
    """

    path: Path

    title: ClassVar[str] = "tieredImageNet (pickles of PNG)"
    layout: ClassVar[str] = "{train,val,test}_images_png.pkl with {train,val,test}_labels.pkl"

    @classmethod
    def find(cls, path: Path) -> "PngPickles | None":
        form = cls(path)
        return form if form.splits else None

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if self._images(split).is_file())

    def files(self) -> Iterator[Path]:
        for split in self.splits:
            yield self._images(split)
            yield self._labels(split)

    def classes(self, split: str) -> dict[str, list[Picture]]:
        names = self._names(split)
        file = self._images(split)
        contents = load(file)
        if not isinstance(contents, list | tuple):
            raise refusal(str(file), "a list of PNG files", describe(contents), "get the file again")
        images = cast(list[Any], contents)
        if len(images) != len(names):
            raise refusal(
                str(file),
                f"one image for each of the {len(names)} labels in {self._labels(split).name}",
                len(images),
                "get both files again, from one place",
            )
        found: dict[str, list[Picture]] = {name: [] for name in names}
        for row, (name, image) in enumerate(zip(names, images, strict=True)):
            where = f"{file} row {row}"
            found[name].append(Picture(where, partial(_decode, image, where)))
        return found

    def _images(self, split: str) -> Path:
        return self.path / f"{split}_images_png.pkl"

    def _labels(self, split: str) -> Path:
        return self.path / f"{split}_labels.pkl"

    def _names(self, split: str) -> list[str]:
        file = self._labels(split)
        if not file.is_file():
            raise refusal(str(file), "the labels of the images beside them", "no such file", "get it too")
        contents = load(file)
        labels = [number(label, INTEGERS, file) for label in entries(contents, INTEGERS, file)]
        if not has(contents, TITLES):
            return [f"{split}/{label}" for label in labels]
        titles = [text(title, TITLES, file) for title in entries(contents, TITLES, file)]
        if labels and not 0 <= min(labels) <= max(labels) < len(titles):
            raise refusal(
                str(file),
                f"label_specific from 0 to {len(titles) - 1}, for there are so many names",
                f"{min(labels)} to {max(labels)}",
                "get the file again",
            )
        return [titles[label] for label in labels]


def _decode(image: Any, where: str) -> Pixels:
    """OpenCV gives the bytes of a PNG file as an array; Python 2 had no bytes apart from text."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        image = image.tobytes()
    if isinstance(image, str):
        # What is not Python 2's text is no PNG file either, and is refused as such.
        image = image.encode("latin1", "replace")
    if not isinstance(image, bytes):
        raise refusal(where, "the bytes of a PNG file", describe(image), "get the file again")
    return encoded(image, where)
