"""miniImageNet and tieredImageNet as Torchmeta keeps them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, ClassVar, cast, final

import numpy as np

from metafunc.data.formats.archive import is_plausible
from metafunc.data.formats.form import SPLITS, Form, Picture, Pixels
from metafunc.data.formats.optional import optional
from metafunc.data.formats.pixels import LAYOUT, encoded, is_of_images
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
            where = f"{file} {name}"
            # The array keeps its file open for as long as there are pictures of it.
            array = _array(group, name, where, self._labels(split))
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
    h5py = optional("h5py", "h5py")
    try:
        opened = h5py.File(file, "r")
        group = _own(opened, "datasets", h5py)
    # A broken file raises whatever the library meets first.
    except Exception as error:
        raise _no_group(file, str(error)) from error
    if not isinstance(group, h5py.Group):
        raise _no_group(file, "none" if group is None else f"a {type(group).__name__} of that name")
    return group


def _no_group(file: Path, got: str) -> ValueError:
    return refusal(str(file), "an HDF5 file with the group datasets", got, "get the file again")


def _own(group: Any, name: str, h5py: Any) -> Any:
    """What a group itself has under a name. Links of other kinds may lead out of the file, and are not followed; nor is
    a path, which is looked up link by link."""
    links, key = group.id.links, name.encode()
    if "/" in name or not links.exists(key):
        return None
    if links.get_info(key).type != h5py.h5l.TYPE_HARD:
        raise ValueError("a link to another place")
    return group[name]


def _array(group: Any, name: str, where: str, labels: Path) -> Any:
    """The array of one class, whose bytes are in the file itself."""
    h5py = optional("h5py", "h5py")
    try:
        array = _own(group, name, h5py)
        got = "none" if array is None else _flaw(array, h5py)
        if not got:
            return array
    # A broken file raises whatever the library meets first.
    except Exception as error:
        got = str(error) or type(error).__name__
    raise refusal(
        where,
        f"an array of the class, which is in {labels.name}: {LAYOUT}, or [n] of PNG files",
        got,
        "get both files again, from one place, or write them anew",
    )


def _flaw(array: Any, h5py: Any) -> str:
    """What is wrong with an array, as far as its description shows."""
    if not isinstance(array, h5py.Dataset):
        return f"a {type(array).__name__}"
    plan = array.id.get_create_plist()
    if plan.get_layout() == h5py.h5d.VIRTUAL or plan.get_external_count():
        return "an array whose bytes are in other files"
    files = h5py.check_vlen_dtype(array.dtype) == np.uint8 and array.ndim == 1
    if not files and not (array.dtype == np.uint8 and array.ndim == 4 and is_of_images(array.shape[1:])):
        return f"{array.dtype} {_size(array.shape)}"
    size = prod(map(max, array.shape, array.chunks or array.shape)) * array.id.get_type().get_size()
    stored = array.id.get_storage_size()
    return "" if is_plausible(size, stored) else f"{size} bytes, for which {stored} are stored"


def _size(shape: tuple[int, ...] | None) -> str:
    return "no array" if shape is None else str(list(shape)) if shape else "a scalar"


def _row(array: Any, row: int, where: str) -> Pixels:
    try:
        pixels = np.asarray(array[row])
    # A broken part raises whatever the filter raises that it goes through.
    except Exception as error:
        got = str(error) or type(error).__name__
        raise refusal(where, "an image that can be read", got, "get the file again") from error
    return encoded(pixels.tobytes(), where) if pixels.ndim == 1 else pixels


def _list(file: Path) -> list[str]:
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise refusal(str(file), "the list of the classes", str(error), "get the file again") from error
    if not isinstance(names, list):
        raise refusal(str(file), "the list of the classes", f"a {type(names).__name__}", "get the file again")
    for name in cast(list[Any], names):
        if not isinstance(name, str):
            raise refusal(
                str(file), "the names of the classes", f"a {type(name).__name__}", "get the file again"
            )
    return cast(list[str], names)
