from __future__ import annotations

import re
import shutil
import tracemalloc
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
from PIL import Image

from metafunc.data.formats import Omniglot, PackedOmniglot, find
from metafunc.data.report import check
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
    text = f"{file}: expected a whole zip file, got File is not a zip file. Delete it and get it again."
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


def encrypted(file: Path) -> None:
    """Marks every member as encrypted, in the list at the end and at the members."""
    raw = bytearray(file.read_bytes())
    for sign, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = raw.find(sign)
        while at >= 0:
            raw[at + flags] |= 1
            at = raw.find(sign, at + 1)
    file.write_bytes(raw)


def test_an_encrypted_zip_file_is_named(tmp_path: Path) -> None:
    samples.omniglot(tmp_path, zipped=True)
    file = tmp_path / "images_background.zip"
    encrypted(file)
    text = (
        f"{file}:images_background/train-Greek/character01/0000_01.png: expected a zip file without a password, "
        "got one that is encrypted. Decrypt it first."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        Omniglot(tmp_path).classes("train")
    assert check(tmp_path).problems == {"files that cannot be read": (text,)}


def test_a_member_that_is_broken_is_named(tmp_path: Path) -> None:
    samples.omniglot(tmp_path, zipped=True)
    file = tmp_path / "images_background.zip"
    raw = file.read_bytes()
    at = raw.index(b"IDAT") + 6
    file.write_bytes(raw[:at] + bytes([255 - raw[at]]) + raw[at + 1 :])
    (line,) = check(tmp_path).problems["images that cannot be decoded"]
    assert re.search(
        r"images_background\.zip:.*0000_01\.png: expected a whole member of a zip file, got Bad CRC", line
    )


def test_a_drawing_that_grows_a_thousand_times(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "images_background.zip", "w", ZIP_DEFLATED) as archive:
        archive.writestr("images_background/a/b/c.png", bytes(10 << 20))
    (picture,) = Omniglot(tmp_path).classes("train")["a/b"]
    with pytest.raises(
        ValueError, match=r"images_background/a/b/c\.png: expected at most \d+ bytes, .* got 10485760"
    ):
        picture.decode()


def test_another_format_in_place_of_a_drawing(tmp_path: Path) -> None:
    samples.omniglot(tmp_path)
    file = tmp_path / "images_background" / "train-Greek" / "character01" / "0000_01.png"
    Image.new("L", (3, 3)).save(file, "BMP")
    with pytest.raises(
        ValueError, match=r"0000_01\.png: expected an image that can be decoded, got no PNG file\."
    ):
        Omniglot(tmp_path).classes("train")["train-Greek/character01"][0].decode()


@pytest.mark.parametrize("left_out", ["bits", "shape", "names", "split_vinyals"])
def test_a_packed_file_that_lacks_something(left_out: str, tmp_path: Path) -> None:
    file = tmp_path / "o.npz"
    samples.packed_omniglot(file)
    with np.load(file) as arrays:
        kept = {key: arrays[key] for key in arrays if key != left_out}
    np.savez(file, **kept)
    text = r"o\.npz: expected an npz file with bits, shape, names and split_vinyals, of as many classes each, got one without "
    with pytest.raises(ValueError, match=text + left_out):
        find(file).classes("train")


@pytest.mark.parametrize("wrong", [b"", b"no zip file", None])
def test_a_packed_file_that_is_none(wrong: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "o.npz"
    samples.packed_omniglot(file)
    file.write_bytes(file.read_bytes()[:-100] if wrong is None else wrong)
    with pytest.raises(ValueError, match=r"o\.npz: expected a whole zip file, got "):
        find(file).classes("train")


def test_a_packed_file_with_objects_runs_nothing(tmp_path: Path) -> None:
    samples.packed_omniglot(tmp_path / "o.npz")
    with np.load(tmp_path / "o.npz") as arrays:
        kept = {key: arrays[key] for key in arrays}
    np.savez(tmp_path / "o.npz", **kept | {"shape": np.array([{}], object)})
    with pytest.raises(ValueError, match=r"o\.npz: expected an npz file with .*, got an array object "):
        find(tmp_path / "o.npz").classes("train")


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 10**6, 10**6),
        (6, 3, -5, -5),
        (6, 3, 0, 5),
        (6, 3, 5),
        (6, 3, 5, 5.0),
        5,
        (6, 3, 5, 9),
        (2**62, 4, 5, 5),
    ],
)
def test_a_packed_file_with_another_shape(shape: Any, tmp_path: Path) -> None:
    file = tmp_path / "o.npz"
    samples.packed_omniglot(file)
    with np.load(file) as arrays:
        kept = {key: arrays[key] for key in arrays}
    np.savez(file, **kept | {"shape": np.array(shape)})
    with pytest.raises(ValueError, match=r"o\.npz: expected an npz file with bits, shape, .*, got .*"):
        find(file).classes("train")
    assert "o.npz" in check(file).problems["files that cannot be read"][0]


def header(shape: str, descr: str) -> bytes:
    """The head of an array's file, and eight bytes of its contents."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(8)


HEADERS = {
    "terabytes": header("(1000000000000,)", "'|u1'"),
    "long text": header("(1,)", "'<U2000000000'"),
    "sides below zero": header("(-2, -4)", "'|u1'"),
    "objects": header("(1,)", "'|O'"),
    "fields": header("(1,)", "[('a', '|O')]"),
    "text of no length": header("(1000000000000,)", "'<U0'"),
    "nested without end": header("(" * 5000, "'|u1'"),
    "no header": b"\x93NUMPY\x01\x00",
    "another version": b"\x93NUMPY\x09\x00" + bytes(80),
    "nothing": b"",
}


@pytest.mark.parametrize("raw", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("name", ["bits", "shape", "names", "split_vinyals"])
def test_an_array_is_held_against_its_bytes_before_there_is_room_for_it(
    name: str, raw: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "o.npz"
    samples.packed_omniglot(file)
    with ZipFile(file) as whole, ZipFile(tmp_path / "p.npz", "w") as spoilt:
        for member in whole.namelist():
            spoilt.writestr(member, raw if member == f"{name}.npy" else whole.read(member))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"p\.npz: expected an npz file with bits, shape, names and "):
        find(tmp_path / "p.npz").classes("train")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24


def test_a_packed_file_that_grows_a_thousand_times(tmp_path: Path) -> None:
    file = tmp_path / "o.npz"
    np.savez_compressed(
        file,
        bits=np.zeros((1, 1, 1 << 23), np.uint8),
        shape=np.array([1, 1, 1 << 13, 1 << 13]),
        names=np.array(["a"]),
        split_vinyals=np.zeros(1, int),
    )
    with pytest.raises(
        ValueError, match=r"^\S+o\.npz:bits: expected at most \d+ bytes, for \d+ are stored, got 8388"
    ):
        find(file).classes("train")


def test_an_encrypted_packed_file(tmp_path: Path) -> None:
    file = tmp_path / "o.npz"
    samples.packed_omniglot(file)
    encrypted(file)
    with pytest.raises(
        ValueError,
        match=r"^\S+o\.npz:shape: expected a zip file without a password, got one that is encrypted",
    ):
        find(file).classes("train")


def test_the_whole_of_omniglot() -> None:
    form = find(real("omniglot28.npz"))
    sizes = {split: len(form.classes(split)) for split in form.splits}
    assert sizes == {"train": 1028, "val": 172, "test": 423}
    drawing = form.classes("train")["Arcadian/character01"][0].decode()
    assert drawing.shape == (28, 28, 1)
    assert set(np.unique(drawing)) == {0, 1}
