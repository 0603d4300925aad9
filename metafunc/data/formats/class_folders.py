"""Folders of splits with a folder for each class."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

from metafunc.data.formats.form import SPLITS, Form, Picture
from metafunc.data.formats.pixels import EXTENSIONS, photograph


@final
@dataclass(frozen=True, slots=True)
class ClassFolders(Form):
    """`{train,val,test}/<class>/<image>`: what the scripts after Finn et al. (2017) make of miniImageNet, and what
    most people make of images of their own."""

    path: Path

    title: ClassVar[str] = "folders of classes"
    layout: ClassVar[str] = "train/, val/ or test/, each with a folder of images for every class"

    @classmethod
    def find(cls, path: Path) -> "ClassFolders | None":
        form = cls(path)
        return form if form.splits else None

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if _folders(self.path / split))

    def files(self) -> Iterator[Path]:
        for split in self.splits:
            for folder in _folders(self.path / split):
                yield from _images(folder)

    def classes(self, split: str) -> dict[str, list[Picture]]:
        return {
            folder.name: [photograph(file) for file in _images(folder)]
            for folder in _folders(self.path / split)
        }


def _folders(split: Path) -> list[Path]:
    if not split.is_dir():
        return []
    return sorted(folder for folder in split.iterdir() if folder.is_dir() and folder.name[0] != ".")


def _images(folder: Path) -> list[Path]:
    return sorted(
        file for file in folder.iterdir() if file.suffix.lower() in EXTENSIONS and file.name[0] != "."
    )
