from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from metafunc.data.formats import Omniglot, PackedOmniglot, find
from tests.data.formats import samples
from tests.data.samples import real


def test_one_part_may_be_unpacked_and_the_other_not(tmp_path: Path) -> None:
    samples.omniglot(tmp_path, zipped=True)
    (tmp_path / "images_background.zip").unlink()
    samples.omniglot(tmp_path / "folders")
    shutil.move(tmp_path / "folders" / "images_background", tmp_path)
    form = Omniglot(tmp_path)
    assert form.splits == ("train", "test")
    assert sorted(form.classes("train")) == [
        "train-Greek/character01",
        "train-Greek/character02",
        "train-Latin/character01",
    ]
    assert len(list(form.files())) == 9 + 1


def test_the_folder_is_taken_where_the_zip_file_is_there_too(tmp_path: Path) -> None:
    samples.omniglot(tmp_path)
    samples.omniglot(tmp_path, zipped=True)
    assert all(file.suffix == ".png" for file in Omniglot(tmp_path).files())


def test_a_zip_file_that_is_not_whole(tmp_path: Path) -> None:
    samples.omniglot(tmp_path, zipped=True)
    file = tmp_path / "images_evaluation.zip"
    file.write_bytes(file.read_bytes()[:-50])
    text = (
        f"{file}: expected a whole zip file, got File is not a zip file. "
        "Delete it and get it again, with `metafunc data download`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        Omniglot(tmp_path).classes("test")


def test_lakes_table_has_two_splits(tmp_path: Path) -> None:
    samples.packed_omniglot(tmp_path / "o.npz")
    form = PackedOmniglot(tmp_path / "o.npz", table="lake")
    assert form.splits == ("train", "test")
    assert list(form.classes("train")) == [f"Greek/character{i:02}" for i in (0, 1, 2)]
    assert list(form.classes("test")) == [f"Greek/character{i:02}" for i in (3, 4, 5)]


def test_an_unknown_table() -> None:
    text = "table: expected 'vinyals' or 'lake', got 'maml'. Name one of the tables of splits."
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        PackedOmniglot(Path("o.npz"), table="maml")


@pytest.mark.parametrize("left_out", ["bits", "shape", "names", "split_vinyals"])
def test_a_packed_file_that_lacks_something(left_out: str, tmp_path: Path) -> None:
    file = tmp_path / "o.npz"
    samples.packed_omniglot(file)
    with np.load(file) as arrays:
        kept = {key: arrays[key] for key in arrays if key != left_out}
    np.savez(file, **kept)
    text = r"o\.npz: expected an npz file with bits, shape, names and split_vinyals, of as many classes each, got "
    with pytest.raises(ValueError, match=text + f".*{left_out}"):
        find(file).classes("train")


@pytest.mark.parametrize("wrong", [b"", b"no zip file", None])
def test_a_packed_file_that_is_none(wrong: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "o.npz"
    samples.packed_omniglot(file)
    file.write_bytes(file.read_bytes()[:-100] if wrong is None else wrong)
    with pytest.raises(ValueError, match=r"o\.npz: expected an npz file with "):
        find(file).classes("train")


def test_a_packed_file_with_objects_runs_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", shape=np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"o\.npz: expected an npz file with .*allow_pickle=False"):
        find(tmp_path / "o.npz").classes("train")


def test_the_whole_of_omniglot() -> None:
    form = find(real("omniglot28.npz"))
    sizes = {split: len(form.classes(split)) for split in form.splits}
    assert sizes == {"train": 1028, "val": 172, "test": 423}
    drawing = form.classes("train")["Arcadian/character01"][0].decode()
    assert drawing.shape == (28, 28, 1)
    assert set(np.unique(drawing)) == {0, 1}
