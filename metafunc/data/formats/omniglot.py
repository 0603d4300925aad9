"""Omniglot as its authors publish it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import ClassVar, final
from zipfile import ZipFile, ZipInfo

from metafunc.data.formats.archive import check_member, open_zip, read_member
from metafunc.data.formats.form import Form, Picture, Pixels
from metafunc.data.formats.pixels import decode, open_image

PARTS = {"train": "images_background", "test": "images_evaluation"}


@final
@dataclass(frozen=True, slots=True)
class Omniglot(Form):
    """`images_background` and `images_evaluation`, folders or the zip files of that name, with
    `<alphabet>/<character>/<drawing>.png`.

    Source: Lake et al. (2015). The background set is the split "train", the evaluation set is "test"; few papers use
    them so, `ImageDataset.resplit` makes the random split of Finn et al. (2017).

    Ink is 255 and paper is 0, where the files have it the other way round. An image is shrunk from 105 to 28 pixels,
    and grey then: a threshold would make the thickness of a stroke depend on where it falls between pixels.
    """

    path: Path

    title: ClassVar[str] = "Omniglot"
    layout: ClassVar[str] = "images_background and images_evaluation, folders or .zip files"
    size: ClassVar[int | None] = 28

    @classmethod
    def find(cls, path: Path) -> "Omniglot | None":
        form = cls(path)
        return form if form.splits else None

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in PARTS if self._folder(split).is_dir() or self._zip(split).is_file())

    def files(self) -> Iterator[Path]:
        for split in self.splits:
            if self._folder(split).is_dir():
                yield from sorted(self._folder(split).glob("*/*/*.png"))
            else:
                yield self._zip(split)

    def classes(self, split: str) -> dict[str, list[Picture]]:
        found: dict[str, list[Picture]] = {}
        for character, picture in self._drawings(split):
            found.setdefault(character, []).append(picture)
        return found

    def _folder(self, split: str) -> Path:
        return self.path / PARTS[split]

    def _zip(self, split: str) -> Path:
        return self.path / f"{PARTS[split]}.zip"

    def _drawings(self, split: str) -> Iterator[tuple[str, Picture]]:
        if self._folder(split).is_dir():
            for file in sorted(self._folder(split).glob("*/*/*.png")):
                alphabet, character = file.parts[-3:-1]
                yield f"{alphabet}/{character}", Picture(str(file), partial(_from_file, file))
            return
        # The archive stays open for as long as there are pictures of it.
        archive = open_zip(self._zip(split))
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            name = member.filename
            # Archives that a Mac has packed hold a second tree, of what only a Mac understands.
            if name.endswith(".png") and name.startswith(f"{PARTS[split]}/") and name.count("/") == 3:
                _, alphabet, character, _ = name.split("/")
                where = f"{self._zip(split)}:{name}"
                check_member(member, where)
                yield f"{alphabet}/{character}", Picture(where, partial(_from_zip, archive, member, where))


def _from_file(file: Path) -> Pixels:
    with open_image(file) as stream:
        return 255 - decode(stream, str(file), "L", ("PNG",))


def _from_zip(archive: ZipFile, member: ZipInfo, where: str) -> Pixels:
    return 255 - decode(BytesIO(read_member(archive, member, where)), where, "L", ("PNG",))
