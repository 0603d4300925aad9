"""miniImageNet as lists of files with their classes, beside a folder of images."""

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

from metafunc.data.formats.form import SPLITS, Fault, Form, Picture
from metafunc.data.formats.pixels import photograph
from metafunc.data.tasks import refusal

CLASS_COLUMNS = ("label", "class")


@final
@dataclass(frozen=True, slots=True)
class CsvFiles(Form):
    """`{train,val,test}.csv` with a header and a row an image, and the images in `images/`.

    Source: the lists of Ravi and Larochelle (2017) have the header `filename,label`, those after Vinyals et al.
    (2016) `filename,class`. FEAT keeps the lists in `split/`.
    """

    path: Path

    title: ClassVar[str] = "lists of images (csv)"
    layout: ClassVar[str] = "train.csv, val.csv or test.csv, there or in split/, beside images/"

    @classmethod
    def find(cls, path: Path) -> "CsvFiles | None":
        form = cls(path)
        return form if form._lists() else None

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._lists())

    def files(self) -> Iterator[Path]:
        yield from self._lists().values()
        yield from (self._images / name for name in sorted(self._there()))

    def classes(self, split: str) -> dict[str, list[Picture]]:
        there = self._there()
        found: dict[str, list[Picture]] = {}
        for name, label in self._rows(split):
            # What is not there is among the faults, and a name with a path would lead out of the folder.
            if name in there:
                found.setdefault(label, []).append(photograph(self._images / name))
        return found

    def faults(self) -> Iterator[Fault]:
        there = self._there()
        listed: set[str] = set()
        for split, file in self._lists().items():
            names = Counter(name for name, _ in self._rows(split))
            for name in sorted(names.keys() - there):
                yield Fault("csv rows without an image", f"{file}: {name} is not in {self._images}")
            for name in (name for name, times in names.items() if times > 1):
                yield Fault("csv rows that repeat an image", f"{file}: {name} stands there twice or more")
            for name in sorted(names.keys() & listed):
                yield Fault(
                    "csv rows that repeat an image", f"{file}: {name} is in the list of another split"
                )
            listed |= names.keys()
        for name in sorted(there - listed):
            yield Fault("images without a csv row", str(self._images / name), fatal=False)

    @property
    def _images(self) -> Path:
        return self.path / "images"

    def _there(self) -> set[str]:
        if not self._images.is_dir():
            raise refusal(
                str(self._images),
                "the folder of the images that the csv files list",
                "no such folder",
                "put the images there",
            )
        # A link to nothing is not there.
        return {file.name for file in self._images.iterdir() if file.name[0] != "." and file.is_file()}

    def _lists(self) -> dict[str, Path]:
        for folder in (self.path, self.path / "split"):
            found = {split: folder / f"{split}.csv" for split in SPLITS}
            found = {split: file for split, file in found.items() if file.is_file()}
            if found:
                return found
        return {}

    def _rows(self, split: str) -> Iterator[tuple[str, str]]:
        """File name and class of every row."""
        file = self._lists()[split]
        try:
            yield from self._parsed(file)
        except (csv.Error, UnicodeDecodeError, OSError) as error:
            raise refusal(
                str(file), "a list of images as text, in UTF-8", error, "get the file again"
            ) from error

    def _parsed(self, file: Path) -> Iterator[tuple[str, str]]:
        # `utf-8-sig` drops the mark that spreadsheets put in front.
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            header = list(reader.fieldnames or ())
            column = next((name for name in CLASS_COLUMNS if name in header), None)
            if "filename" not in header or column is None:
                raise refusal(
                    str(file),
                    "the columns filename and label (or class)",
                    ", ".join(header) or "an empty file",
                    "write the header filename,label as the first line",
                )
            for row in reader:
                if not row["filename"] or not row[column]:
                    raise refusal(
                        f"{file}:{reader.line_num}", "a filename and a class", dict(row), "complete the row"
                    )
                yield row["filename"], row[column]
