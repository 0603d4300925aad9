"""miniImageNet as one pickle a split, with the rows of each class."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast, final

from metafunc.data.formats.form import Form, Picture
from metafunc.data.formats.pixels import check_rows, describe, rows
from metafunc.data.formats.unpickle import entry, load, number, sequence, text
from metafunc.data.tasks import refusal

FILES = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}


@final
@dataclass(frozen=True, slots=True)
class CachePickles(Form):
    """`mini-imagenet-cache-{train,val,test}.pkl`: a dict with `image_data`, uint8 [n, 84, 84, 3], and
    `class_dict`, class -> its rows.

    Source: the files of Ren et al. (2018), which Torchmeta reads too; learn2learn calls the second one
    `validation`.
    """

    path: Path

    title: ClassVar[str] = "miniImageNet cache (pickle)"
    layout: ClassVar[str] = "mini-imagenet-cache-{train,val or validation,test}.pkl"

    @classmethod
    def find(cls, path: Path) -> "CachePickles | None":
        form = cls(path)
        return form if form.splits else None

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._pickles())

    def files(self) -> Iterator[Path]:
        yield from self._pickles().values()

    def classes(self, split: str) -> dict[str, list[Picture]]:
        file = self._pickles()[split]
        contents = load(file)
        images = check_rows(entry(contents, "image_data", file), str(file))
        members = entry(contents, "class_dict", file)
        return rows(images, _labels(members, len(images), file), str(file))

    def _pickles(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for split, spellings in FILES.items():
            files = [self.path / f"mini-imagenet-cache-{name}.pkl" for name in spellings]
            there = [file for file in files if file.is_file()]
            if there:
                found[split] = there[0]
        return found


def _labels(members: Any, count: int, file: Path) -> list[str]:
    """The class of every row, from the rows of every class."""
    if not isinstance(members, dict):
        raise refusal(str(file), "class_dict as a dict", describe(members), "get the file again")
    labels: list[str | None] = [None] * count
    for key, indices in cast(dict[Any, Any], members).items():
        name = text(key, "the classes", file)
        what = f"the rows of {name}"
        for index in (number(item, what, file) for item in sequence(indices, what, file)):
            if not 0 <= index < count or labels[index] is not None:
                raise refusal(
                    str(file),
                    f"every row from 0 to {count - 1} in one class of class_dict",
                    f"row {index} of {name}, which is outside or in another class too",
                    "get the file again",
                )
            labels[index] = name
    missing = [row for row, label in enumerate(labels) if label is None]
    if missing:
        raise refusal(
            str(file),
            "a class for every row in class_dict",
            f"none for row {missing[0]}",
            "get the file again",
        )
    return [label for label in labels if label is not None]
