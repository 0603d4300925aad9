from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from metafunc.data.formats import CsvFiles
from metafunc.data.report import check
from tests.data.formats import samples


@pytest.fixture
def form(tmp_path: Path) -> CsvFiles:
    samples.csv_files(tmp_path)
    return CsvFiles(tmp_path)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_list_from_a_spreadsheet_starts_with_a_mark(form: CsvFiles) -> None:
    file = form.path / "val.csv"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert list(form.classes("val")) == ["n03", "n04"]


def test_rows_without_an_image(form: CsvFiles) -> None:
    (form.path / "images" / "n0100000001.png").unlink()
    (fault,) = form.faults()
    assert fault.fatal
    assert fault.kind == "csv rows without an image"
    assert fault.text == f"{form.path}/train.csv: n0100000001.png is not in {form.path}/images"


def test_images_without_a_row_are_no_reason_to_refuse(form: CsvFiles) -> None:
    (form.path / "images" / "more.png").touch()
    (form.path / "images" / ".DS_Store").touch()
    (fault,) = form.faults()
    assert not fault.fatal
    assert (fault.kind, fault.text) == ("images without a csv row", f"{form.path}/images/more.png")


@pytest.mark.parametrize(
    ("file", "new", "text"),
    [
        (
            "train.csv",
            "n0100000000.png,n01\nn0100000000.png,n01",
            "n0100000000.png stands there twice or more",
        ),
        (
            "test.csv",
            "n0100000000.png,n05\nn0500000000.png,n05",
            "n0100000000.png is in the list of another split",
        ),
    ],
)
def test_an_image_that_is_listed_again(file: str, new: str, text: str, form: CsvFiles) -> None:
    edit(form.path / file, new.splitlines()[-1], new)
    (fault,) = form.faults()
    assert fault.fatal
    assert (fault.kind, fault.text) == ("csv rows that repeat an image", f"{form.path}/{file}: {text}")


@pytest.mark.parametrize(
    ("header", "got"),
    [("file,label", "file, label"), ("filename,wnid", "filename, wnid"), ("", "an empty file")],
)
def test_an_unknown_column(header: str, got: str, form: CsvFiles) -> None:
    (form.path / "val.csv").write_text(header and f"{header}\na.png,n01\n")
    text = (
        f"{form.path}/val.csv: expected the columns filename and label (or class), got {got}. "
        "Write the header filename,label as the first line."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        form.classes("val")


def test_a_row_that_is_not_complete(form: CsvFiles) -> None:
    edit(form.path / "val.csv", "n0300000001.png,n03", "n0300000001.png")
    text = (
        f"{form.path}/val.csv:3: expected a filename and a class, "
        "got {'filename': 'n0300000001.png', 'label': None}. Complete the row."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        form.classes("val")


def test_lists_without_images(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("filename,label\na.png,n01\n")
    text = (
        f"{tmp_path}/images: expected the folder of the images that the csv files list, got no such folder. "
        "Put the images there."
    )
    form = CsvFiles.find(tmp_path)
    assert form is not None
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        list(form.faults())


@pytest.mark.parametrize(
    "raw", [b"filename,label\na.png," + b"n" * 200_000, b"\xff\xfe\x00a", b"filename,label\n\xff.png,n01\n"]
)
def test_a_list_that_is_no_text_is_named(raw: bytes, form: CsvFiles) -> None:
    (form.path / "val.csv").write_bytes(raw)
    text = f"{form.path}/val.csv: expected a list of images as text, in UTF-8, got "
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        form.classes("val")
    assert check(form).problems["files that cannot be read"][0].startswith(text)


def nothing(file: Path) -> None:
    file.unlink()
    file.symlink_to("nothing")


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("make", [Path.unlink, nothing, a_folder])
def test_an_image_that_is_listed_but_no_file_is_named_once(
    make: Callable[[Path], object], form: CsvFiles
) -> None:
    make(form.path / "images" / "n0300000001.png")
    assert check(form).problems == {
        "csv rows without an image": (f"{form.path}/val.csv: n0300000001.png is not in {form.path}/images",)
    }


def test_a_name_may_not_lead_out_of_the_folder_of_images(form: CsvFiles) -> None:
    samples.put(form.path / "secret.png", (form.path / "images" / "n0300000001.png").read_bytes())
    edit(form.path / "val.csv", "n0300000001.png", "../secret.png")
    kinds = check(form).problems
    assert kinds["csv rows without an image"] == (
        f"{form.path}/val.csv: ../secret.png is not in {form.path}/images",
    )
    assert len(form.classes("val")["n03"]) == samples.EACH - 1
