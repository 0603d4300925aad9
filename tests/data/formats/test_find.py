"""Every form is recognised, and gives the images that were put into it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from metafunc.data.formats import (
    FORMS,
    CachePickles,
    ClassFolders,
    CsvFiles,
    Form,
    Hdf5Files,
    Omniglot,
    PackedOmniglot,
    PhasePickles,
    PngPickles,
    find,
)
from metafunc.data.formats.find import NotRecognisedError
from tests.data.formats import samples
from tests.data.formats.samples import Expected

Make = Callable[[Path], Expected]

CASES: dict[str, tuple[type[Form], Make, str]] = {
    "csv": (CsvFiles, samples.csv_files, ""),
    "csv of Vinyals": (CsvFiles, partial(samples.csv_files, column="class"), ""),
    "csv in split/": (CsvFiles, partial(samples.csv_files, folder="split"), ""),
    "class folders": (ClassFolders, samples.class_folders, ""),
    "cache": (CachePickles, samples.cache_pickles, ""),
    "cache of learn2learn": (CachePickles, partial(samples.cache_pickles, second="validation"), ""),
    "cache with bytes": (CachePickles, partial(samples.cache_pickles, keys=str.encode), ""),
    "cache of protocol 2": (CachePickles, partial(samples.cache_pickles, protocol=2), ""),
    "cache of protocol 5": (CachePickles, partial(samples.cache_pickles, protocol=5), ""),
    "hdf5": (Hdf5Files, samples.hdf5_files, ""),
    "hdf5, one folder down": (Hdf5Files, lambda path: samples.hdf5_files(path / "miniimagenet"), ""),
    "MetaOptNet": (PhasePickles, samples.phase_pickles, ""),
    "FC100": (PhasePickles, partial(samples.phase_pickles, train="FC100_train"), ""),
    "CIFAR-FS": (PhasePickles, partial(samples.phase_pickles, train="CIFAR_FS_train"), ""),
    "tiered": (PngPickles, samples.png_pickles, ""),
    "tiered without names": (PngPickles, partial(samples.png_pickles, titles=False), ""),
    "Omniglot": (Omniglot, samples.omniglot, ""),
    "Omniglot, zipped": (Omniglot, partial(samples.omniglot, zipped=True), ""),
    "Omniglot, packed": (PackedOmniglot, lambda path: samples.packed_omniglot(path / "o.npz"), "o.npz"),
}


@pytest.mark.parametrize(("kind", "make", "inside"), CASES.values(), ids=CASES)
def test_a_form_is_recognised_and_read(kind: type[Form], make: Make, inside: str, tmp_path: Path) -> None:
    expected = make(tmp_path)
    form = find(tmp_path / inside)
    assert type(form) is kind
    assert form.splits == tuple(expected)
    assert not list(form.faults())
    assert all(file.is_file() for file in form.files())
    for split, classes in expected.items():
        found = form.classes(split)
        assert sorted(found) == sorted(classes)
        for name, images in classes.items():
            pixels = np.stack([picture.decode() for picture in found[name]])
            assert pixels.dtype == np.uint8
            assert np.array_equal(pixels, images)


def test_every_form_is_tried() -> None:
    assert set(FORMS) == {kind for kind, _, _ in CASES.values()}
    # `slots` makes each class twice, so they are compared by name.
    assert {form.__name__ for form in FORMS} == {form.__name__ for form in Form.__subclasses__()}


@pytest.mark.parametrize(
    "make", [samples.csv_files, samples.class_folders, samples.cache_pickles, samples.hdf5_files]
)
def test_a_data_set_may_lack_a_split(make: Make, tmp_path: Path) -> None:
    make(tmp_path)
    for file in [*tmp_path.glob("*test*"), *tmp_path.glob("test/*/*")]:
        if file.is_file():
            file.unlink()
    for folder in (*tmp_path.glob("test/*"), *tmp_path.glob("test")):
        folder.rmdir()
    assert find(tmp_path).splits == ("train", "val")


def test_a_path_may_be_a_string_and_start_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    samples.class_folders(tmp_path / "mine")
    assert find("~/mine") == ClassFolders((tmp_path / "mine").resolve())


def test_nothing_there(tmp_path: Path) -> None:
    text = f"{tmp_path}/none: expected a folder or file of data, got nothing there. Check the path."
    with pytest.raises(NotRecognisedError, match=f"^{re.escape(text)}$"):
        find(tmp_path / "none")


def test_nothing_recognised_lists_what_was_looked_for(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(NotRecognisedError) as caught:
        find(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: expected one of these: images_background")
    assert all(form.layout in message for form in FORMS)
    assert message.endswith(
        "got a folder with 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more. Pass the folder that holds the data."
    )


def test_an_empty_folder_is_not_recognised(tmp_path: Path) -> None:
    with pytest.raises(NotRecognisedError, match="got a folder with nothing in it"):
        find(tmp_path)


def test_a_file_is_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(NotRecognisedError, match="got a file"):
        find(tmp_path / "a.txt")
