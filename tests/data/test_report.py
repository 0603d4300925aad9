"""What `check` finds in data that is spoilt in one way at a time."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metafunc.data.formats.find import NotRecognisedError
from metafunc.data.read import read
from metafunc.data.report import check
from tests.data.formats import samples
from tests.data.samples import real

FINE = """{data}: lists of images (csv)
split     classes   images  per class
train           2        6  3
val             2        6  3
test            2        6  3
no problems"""


def test_all_is_well(tmp_path: Path) -> None:
    samples.csv_files(tmp_path)
    report = check(tmp_path)
    assert report.problems == {}
    assert report.sizes == {
        "train": {"n01": 3, "n02": 3},
        "val": {"n03": 3, "n04": 3},
        "test": {"n05": 3, "n06": 3},
    }
    assert str(report) == FINE.format(data=tmp_path)


def image(data: Path, name: str, row: int) -> Path:
    return data / "images" / f"{name}{row:08}.png"


def truncate(data: Path) -> None:
    file = image(data, "n03", 1)
    file.write_bytes(file.read_bytes()[:80])


def enlarge(data: Path) -> None:
    samples.put(image(data, "n03", 1), samples.png(np.zeros((6, 9, 3), np.uint8)))


def append(name: str, line: str) -> Callable[[Path], Any]:
    def spoil(data: Path) -> None:
        with (data / name).open("a") as stream:
            stream.write(line + "\n")

    return spoil


SPOILT: dict[str, tuple[Callable[[Path], Any], str, list[str]]] = {
    "truncated": (
        truncate,
        "images that cannot be decoded",
        [r"{data}/images/n0300000001\.png: expected an image that can be decoded, got .+"],
    ),
    "row without image": (
        lambda data: image(data, "n03", 1).unlink(),
        "csv rows without an image",
        [r"{data}/val\.csv: n0300000001\.png is not in {data}/images"],
    ),
    "image without row": (
        lambda data: samples.put(data / "images" / "x.png", b""),
        "images without a csv row",
        [r"{data}/images/x\.png"],
    ),
    "listed twice": (
        append("val.csv", "n0300000001.png,n03"),
        "csv rows that repeat an image",
        [r"{data}/val\.csv: n0300000001\.png stands there twice or more"],
    ),
    "twice in a split": (
        lambda data: shutil.copy(image(data, "n03", 1), image(data, "n04", 2)),
        "images that are twice in one split",
        [
            (
                r"{data}/images/n0400000002\.png \(val n04\) is the same image as "
                r"{data}/images/n0300000001\.png \(val n03\)"
            )
        ],
    ),
    "twice in two splits": (
        lambda data: shutil.copy(image(data, "n01", 1), image(data, "n06", 2)),
        "images that are twice in two splits",
        [
            (
                r"{data}/images/n0600000002\.png \(test n06\) is the same image as "
                r"{data}/images/n0100000001\.png \(train n01\)"
            )
        ],
    ),
    "another size": (
        enlarge,
        "images of another size",
        [r"{data}/images/n0300000001\.png: 6x9, most are 6x6"],
    ),
    "no class": (
        lambda data: (
            (data / "val.csv").write_text("filename,label\n")
            and [file.unlink() for file in (data / "images").glob("n0[34]*")]
        ),
        "splits without a class",
        [r"val of {data} has no class\. Fill it, or delete it\."],
    ),
    "no column": (
        lambda data: (data / "val.csv").write_text("a,b\n"),
        "files that cannot be read",
        [r"{data}/val\.csv: expected the columns filename and label \(or class\), got a, b\. .+"],
    ),
    "no images": (
        lambda data: shutil.rmtree(data / "images"),
        "files that cannot be read",
        [
            r"{data}/images: expected the folder of the images that the csv files list, got no such folder\. .+"
        ],
    ),
}


@pytest.mark.parametrize(("spoil", "kind", "lines"), SPOILT.values(), ids=SPOILT)
def test_a_problem_is_found_and_nothing_else_is(
    spoil: Callable[[Path], Any], kind: str, lines: list[str], tmp_path: Path
) -> None:
    samples.csv_files(tmp_path)
    spoil(tmp_path)
    report = check(tmp_path)
    assert list(report.problems) == [kind]
    assert len(report.problems[kind]) == len(lines)
    for found, pattern in zip(report.problems[kind], lines, strict=True):
        assert re.fullmatch(pattern.replace("{data}", re.escape(str(tmp_path))), found)
    assert str(report).splitlines()[-1 - len(lines) :] == [
        f"{kind}: {len(lines)}",
        f"  {report.problems[kind][0]}",
    ]


def test_a_class_in_two_splits_and_one_without_an_image(tmp_path: Path) -> None:
    samples.class_folders(tmp_path)
    (tmp_path / "test" / "n01").mkdir()
    report = check(tmp_path)
    assert report.problems == {
        "classes without an image": (f"n01 of test in {tmp_path} has no image",),
        "classes in two splits": (
            f"n01 is in train and in test of {tmp_path}. Its images would be trained on and judged by.",
        ),
    }
    assert "test            3        6  0 to 3" in str(report)


@pytest.mark.parametrize(
    ("spoil", "got"),
    [
        (lambda file: file.unlink() or file.symlink_to("nothing"), "a link to something that is not there"),
        (lambda file: file.unlink() or file.mkdir(), "something that is no file"),
        (lambda file: file.unlink() or os.mkfifo(file), "something that is no file"),
        (
            lambda file: file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"),
            "no JPEG or PNG or BMP or GIF or WEBP or TIFF file",
        ),
    ],
    ids=["a link to nothing", "a folder", "a pipe", "another format"],
)
def test_what_is_no_image_is_named_as_when_it_is_read(
    spoil: Callable[[Path], object], got: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    samples.class_folders(data)
    spoil(data / "val" / "n03" / "1.png")
    (line,) = check(data).problems["images that cannot be decoded"]
    assert line.startswith(f"{data}/val/n03/1.png: expected an image ")
    assert f", got {got}. " in line
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        read(data, cache=tmp_path / "cache")


@pytest.mark.parametrize("raw", [b"cos\nsystem\n(S'true'\ntR.", b"\x80\x02}", b"B\xff\xff\xff\xff."])
def test_a_pickle_that_is_not_read_is_named_as_when_it_is_read(raw: bytes, tmp_path: Path) -> None:
    data = tmp_path / "data"
    samples.cache_pickles(data)
    (data / "mini-imagenet-cache-val.pkl").write_bytes(raw)
    (line,) = check(data).problems["files that cannot be read"]
    assert line.startswith(f"{data}/mini-imagenet-cache-val.pkl: expected a ")
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        read(data, cache=tmp_path / "cache")


def test_no_size_is_odd_if_images_are_resized(tmp_path: Path) -> None:
    samples.csv_files(tmp_path)
    enlarge(tmp_path)
    assert check(tmp_path, size=84).problems == {}


def test_omniglot_is_resized_anyhow(tmp_path: Path) -> None:
    samples.omniglot(tmp_path)
    shutil.rmtree(tmp_path / "images_evaluation")
    samples.omniglot(tmp_path / "b", side=90)
    shutil.move(tmp_path / "b" / "images_evaluation", tmp_path)
    assert check(tmp_path).problems == {}


def test_long_lists_are_cut_short_when_printed(tmp_path: Path) -> None:
    samples.csv_files(tmp_path)
    for row in range(13):
        (tmp_path / "images" / f"x{row:02}.png").touch()
    report = check(tmp_path)
    assert len(report.problems["images without a csv row"]) == 13
    assert str(report).splitlines()[-3:] == [
        f"  {tmp_path}/images/x08.png",
        f"  {tmp_path}/images/x09.png",
        "  and 3 more",
    ]


def test_progress_is_told(tmp_path: Path) -> None:
    samples.csv_files(tmp_path)
    seen: list[tuple[int, int]] = []
    check(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 18) for done in range(1, 19)]


def test_what_is_not_recognised_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(NotRecognisedError):
        check(tmp_path)


def test_a_size_is_a_whole_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^size: expected an integer of at least 1, got 0\."):
        check(tmp_path, size=0)


def test_dots_of_braille_are_twice_in_omniglot() -> None:
    report = check(real("omniglot28.npz"))
    assert list(report.problems) == ["images that are twice in one split"]
    assert len(report.problems["images that are twice in one split"]) == 6
