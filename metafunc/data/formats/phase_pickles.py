"""miniImageNet, FC100 and CIFAR-FS as one pickle a split, with a label for each image."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

from metafunc.data.formats.form import SPLITS, Form, Picture
from metafunc.data.formats.pixels import check_rows, rows
from metafunc.data.formats.unpickle import entries, entry, load, text
from metafunc.data.tasks import refusal


@final
@dataclass(frozen=True, slots=True)
class PhasePickles(Form):
    """`<name>_{train,val,test}.pickle`: a dict with `data`, uint8 [n, height, width, 3], and `labels`, an integer an
    image, the same for one class in every split.

    Source: the files of MetaOptNet (Lee et al., 2019): `miniImageNet_category_split_*`, `FC100_*`, `CIFAR_FS_*`. Of
    those with a phase in their name `train_phase_train` is "train", as in MetaOptNet: `train_phase_val` and
    `train_phase_test` hold more images of the same classes, for judging a plain classifier, and are left out.
    """

    path: Path

    title: ClassVar[str] = "MetaOptNet's files (pickle)"
    layout: ClassVar[str] = (
        "<name>_{train,val,test}.pickle, such as FC100_train.pickle, or <name>_train_phase_train.pickle for the first"
    )

    @classmethod
    def find(cls, path: Path) -> "PhasePickles | None":
        form = cls(path)
        return form if form._names() else None

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._pickles())

    def files(self) -> Iterator[Path]:
        yield from self._pickles().values()

    def classes(self, split: str) -> dict[str, list[Picture]]:
        file = self._pickles()[split]
        contents = load(file)
        labels = [text(label, "labels", file) for label in entries(contents, "labels", file)]
        return rows(check_rows(entry(contents, "data", file), str(file)), labels, str(file))

    def _names(self) -> dict[str, dict[str, Path]]:
        """The files of every data set in the folder, by its name."""
        found: dict[str, dict[str, Path]] = {}
        for file in sorted(self.path.glob("*.pickle")):
            name, _, split = file.stem.removesuffix("_train_phase_train").rpartition("_")
            if file.stem.endswith("_train_phase_train"):
                name, split = file.stem.removesuffix("_train_phase_train"), "train"
            if split in SPLITS and not name.endswith("_train_phase"):
                found.setdefault(name, {})[split] = file
        return found

    def _pickles(self) -> dict[str, Path]:
        names = self._names()
        if len(names) > 1:
            raise refusal(
                str(self.path),
                "the files of one data set",
                "those of " + " and ".join(names),
                "give each data set a folder of its own",
            )
        (files,) = names.values()
        return {split: files[split] for split in SPLITS if split in files}
