"""Omniglot in one small file, a bit a pixel."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from metafunc.data.formats.form import Form, Picture
from metafunc.data.tasks import refusal

TABLES = {"vinyals": ("train", "val", "test"), "lake": ("train", "test")}


@final
@dataclass(frozen=True, slots=True)
class PackedOmniglot(Form):
    """An npz file with `bits`, packed by `numpy.packbits`, the `shape` [classes, drawings, height, width] they unpack
    to, the `names` of the classes, and `split_vinyals` and `split_lake`, the number of each class's split.

    Ink is 1 and paper is 0, with no grey between.

    Attributes:
        path: the file.
        table: "vinyals" for the split of Vinyals et al. (2016), whose numbers 0, 1, 2 are "train", "val" and "test";
            "lake" for that of Lake et al. (2015), whose numbers 0 and 1 are "train" and "test".

    Raises:
        ValueError: `table` is neither.
    """

    path: Path
    table: str = "vinyals"

    title: ClassVar[str] = "Omniglot, packed (npz)"
    layout: ClassVar[str] = "a file .npz with bits, shape, names and split_vinyals"

    def __post_init__(self) -> None:
        if self.table not in TABLES:
            known = " or ".join(repr(table) for table in TABLES)
            raise refusal("table", known, repr(self.table), "name one of the tables of splits")

    @classmethod
    def find(cls, path: Path) -> "PackedOmniglot | None":
        return cls(path) if path.suffix == ".npz" and path.is_file() else None

    @property
    def splits(self) -> tuple[str, ...]:
        return TABLES[self.table]

    @property
    def peak(self) -> int:
        return 1

    def files(self) -> Iterator[Path]:
        yield self.path

    def classes(self, split: str) -> dict[str, list[Picture]]:
        images, names, numbers = self._arrays()
        found: dict[str, list[Picture]] = {}
        for index in np.flatnonzero(numbers == self.splits.index(split)).tolist():
            where = f"{self.path} {names[index]} drawing"
            found[names[index]] = [
                Picture(f"{where} {row}", partial(images[index].__getitem__, row))
                for row in range(len(images[index]))
            ]
        return found

    def _arrays(self) -> tuple[NDArray[np.uint8], list[str], NDArray[Any]]:
        """Images [classes, drawings, height, width, 1], and the name and the number of the split of each class."""
        table = f"split_{self.table}"
        wanted = f"bits, shape, names and {table}, of as many classes each"
        try:
            # `allow_pickle` stays off: a pickle inside could run code.
            with self.path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                classes, drawings, height, width = file["shape"].tolist()
                bits = file["bits"].reshape(classes, drawings, -1)
                images = np.unpackbits(bits, axis=-1, count=height * width)
                names = file["names"].reshape(classes).tolist()
                numbers = file[table].reshape(classes)
        except (KeyError, ValueError, TypeError, OSError, EOFError, BadZipFile) as error:
            raise refusal(
                str(self.path), f"an npz file with {wanted}", error, "get the file again"
            ) from error
        return images.reshape(classes, drawings, height, width, 1), names, numbers
