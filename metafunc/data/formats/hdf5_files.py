"""miniImageNet and tieredImageNet as Torchmeta keeps them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast, final

import numpy as np

from metafunc.data.formats.form import SPLITS, Form, Picture, Pixels
from metafunc.data.formats.optional import optional
from metafunc.data.formats.pixels import describe, encoded
from metafunc.data.tasks import refusal


@final
@dataclass(frozen=True, slots=True)
class Hdf5Files(Form):
    """`{train,val,test}_data.hdf5` with a group `datasets` of an array for every class, and `{split}_labels.json`, the
    list of the classes.

    Source: Torchmeta (Deleu et al., 2019), which makes them of other files. The array of a class is uint8
    [n, 84, 84, 3], or [n] of PNG files for tieredImageNet. Images are read one by one, and never all at once.
    """

    path: Path

    title: ClassVar[str] = "Torchmeta's files (HDF5)"
    layout: ClassVar[str] = "{train,val,test}_data.hdf5 with {train,val,test}_labels.json"

    @classmethod
    def find(cls, path: Path) -> "Hdf5Files | None":
        for folder in (path, path / "miniimagenet", path / "tieredimagenet"):
            form = cls(folder)
            if form.splits:
                return form
        return None

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if self._data(split).is_file())

    def files(self) -> Iterator[Path]:
        for split in self.splits:
            yield self._data(split)
            yield self._labels(split)

    def classes(self, split: str) -> dict[str, list[Picture]]:
        file = self._data(split)
        group = _group(file)
        found: dict[str, list[Picture]] = {}
        for name in _list(self._labels(split)):
            if name not in group:
                raise refusal(
                    str(file),
                    f"an array for {name}, which is in {self._labels(split).name}",
                    "none",
                    "get both files again, from one place",
                )
            # The array keeps its file open for as long as there are pictures of it.
            array = group[name]
            where = f"{file} {name}"
            found[name] = [
                Picture(f"{where} row {row}", partial(_row, array, row, f"{where} row {row}"))
                for row in range(len(array))
            ]
        return found

    def _data(self, split: str) -> Path:
        return self.path / f"{split}_data.hdf5"

    def _labels(self, split: str) -> Path:
        return self.path / f"{split}_labels.json"


def _group(file: Path) -> Any:
    try:
        return optional("h5py", "h5py").File(file, "r")["datasets"]
    except (OSError, KeyError) as error:
        raise refusal(
            str(file), "an HDF5 file with the group datasets", str(error), "get the file again"
        ) from error


def _row(array: Any, row: int, where: str) -> Pixels:
    pixels = np.asarray(array[row])
    if pixels.dtype == np.uint8 and pixels.ndim == 1:
        return encoded(pixels.tobytes(), where)
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise refusal(
            where,
            "an image, uint8 [height, width, channels], or a PNG file, uint8 [bytes]",
            describe(pixels),
            "write the file anew with bytes, channels last",
        )
    return pixels


def _list(file: Path) -> list[str]:
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise refusal(str(file), "the list of the classes", str(error), "get the file again") from error
    if not isinstance(names, list):
        raise refusal(str(file), "the list of the classes", f"a {type(names).__name__}", "get the file again")
    return [str(name) for name in cast(list[Any], names)]
