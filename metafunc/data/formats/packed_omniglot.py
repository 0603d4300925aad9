"""Omniglot in one small file, a bit a pixel."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic
from numpy.typing import NDArray

from metafunc.data.formats.archive import open_zip, read_member
from metafunc.data.formats.form import Form, Picture, Pixels
from metafunc.data.formats.pixels import describe
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
        bits, (height, width), names, numbers = self._arrays()
        found: dict[str, list[Picture]] = {}
        for index in np.flatnonzero(numbers == self.splits.index(split)).tolist():
            where = f"{self.path} {names[index]} drawing"
            found[names[index]] = [
                Picture(f"{where} {row}", partial(_unpacked, packed, height, width))
                for row, packed in enumerate(bits[index])
            ]
        return found

    def _arrays(self) -> tuple[NDArray[np.uint8], tuple[int, int], list[str], NDArray[Any]]:
        """Images, packed [classes, drawings, bytes], their height and width, and the name and the number of the split
        of each class."""
        table = f"split_{self.table}"
        raw = self._members("shape", "bits", "names", table)
        try:
            sides = _array(raw["shape"], "iu").tolist()
            bits = _array(raw["bits"], "u")
            classes, drawings, height, width = sides
            row = (height * width + 7) // 8
            if min(sides) < 1 or bits.dtype != np.uint8 or bits.size != classes * drawings * row:
                raise ValueError(f"bits {describe(bits)} with the shape {sides}")
            names = _array(raw["names"], "U").reshape(classes).tolist()
            numbers = _array(raw[table], "iu").reshape(classes)
        # The head of an array is Python, whose parser has errors of its own.
        except Exception as error:
            raise self._refusal(str(error) or type(error).__name__) from error
        return bits.reshape(classes, drawings, row), (height, width), names, numbers

    def _members(self, *names: str) -> dict[str, bytes]:
        with open_zip(self.path) as archive:
            there = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            for name in names:
                if name not in there:
                    raise self._refusal(f"one without {name}")
            return {name: read_member(archive, there[name], f"{self.path}:{name}") for name in names}

    def _refusal(self, got: str) -> ValueError:
        wanted = f"bits, shape, names and split_{self.table}, of as many classes each"
        return refusal(str(self.path), f"an npz file with {wanted}", got, "get the file again")


def _array(data: bytes, kinds: str) -> NDArray[Any]:
    """An array of numbers or text in its file. `numpy.load` makes room for whatever the head of one asks for."""
    stream = BytesIO(data)
    version = read_magic(stream)
    header = read_array_header_1_0 if version == (1, 0) else read_array_header_2_0
    shape, by_columns, dtype = header(stream)
    if dtype.kind not in kinds or prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError(f"an array {dtype} {list(shape)} in {len(data)} bytes")
    return np.ndarray(shape, dtype, data, stream.tell(), order="F" if by_columns else "C")


def _unpacked(packed: NDArray[np.uint8], height: int, width: int) -> Pixels:
    return np.unpackbits(packed, count=height * width).reshape(height, width, 1)
