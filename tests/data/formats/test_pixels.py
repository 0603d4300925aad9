from __future__ import annotations

import os
import re
import struct
import sys
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metafunc.data.formats.optional import optional
from metafunc.data.formats.pixels import decode, encoded, photograph, resized
from tests.data.formats import samples

IMAGE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


@pytest.mark.parametrize("extension", ["png", "bmp", "tiff"])
def test_a_file_gives_its_pixels(extension: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.{extension}"
    Image.fromarray(IMAGE).save(file)
    picture = photograph(file)
    assert picture.where == str(file)
    assert np.array_equal(picture.decode(), IMAGE)


def test_a_jpeg_file_is_near_its_pixels(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(16) * 8, np.arange(16) * 7)[..., None].repeat(3, -1).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    found = photograph(tmp_path / "a.jpg").decode().astype(int)
    assert found.shape == (16, 16, 3)
    assert np.abs(found - smooth).max() < 8


def test_a_grey_photograph_gets_three_channels() -> None:
    buffer = BytesIO()
    Image.fromarray(IMAGE[..., 0]).save(buffer, "PNG")
    assert np.array_equal(encoded(buffer.getvalue(), "a"), IMAGE[..., :1].repeat(3, -1))


def test_a_drawing_keeps_its_channel() -> None:
    buffer = BytesIO()
    Image.fromarray(IMAGE[..., 0] > 100).save(buffer, "PNG")
    assert np.array_equal(decode(buffer, "a", "L"), np.where(IMAGE[..., :1] > 100, 255, 0))


def test_an_image_of_the_size_is_left_alone() -> None:
    square = IMAGE[:, :5]
    assert resized(square, 5) is square


@pytest.mark.parametrize("channels", [1, 3])
def test_shrinking_to_half_weighs_by_a_triangle(channels: int) -> None:
    image = IMAGE[:4, :4, :channels]
    # At scale 2 the triangle reaches over four pixels from the middle of a new one: 1, 3, 3, 1 eighths within the
    # image; what hangs over the edge is left out and the rest made to sum to one.
    weights = np.array([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7
    expected = np.einsum("ai,bj,ijc->abc", weights, weights, image)
    found = resized(np.ascontiguousarray(image), 2)
    assert found.shape == (2, 2, channels)
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("cut", [0, 10, 60])
def test_a_broken_image_is_named(cut: int) -> None:
    text = r"^a\.png: expected an image that can be decoded, got .+\. Get the file again; `metafunc data check` lists"
    with pytest.raises(ValueError, match=text):
        encoded(samples.png(IMAGE)[:cut], "a.png")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"


@pytest.mark.parametrize("extension", ["png", "jpg", "gif", "tif"])
def test_a_program_in_place_of_an_image_is_not_run(
    extension: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: object, **__: object) -> None:
        pytest.fail("another program was started")

    monkeypatch.setattr("subprocess.Popen", started)
    monkeypatch.setattr("PIL.EpsImagePlugin.EpsImageFile.load", started)
    file = tmp_path / f"a.{extension}"
    file.write_bytes(POSTSCRIPT)
    text = f"{file}: expected an image that can be decoded, got no JPEG or PNG or BMP or GIF or WEBP or TIFF file. "
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        photograph(file).decode()


@pytest.mark.parametrize("extension", ["ppm", "ico", "tga", "pcx", "sgi"])
def test_no_data_set_has_files_of_other_formats(extension: str, tmp_path: Path) -> None:
    Image.fromarray(IMAGE).save(tmp_path / f"a.{extension}")
    (tmp_path / f"a.{extension}").rename(tmp_path / "a.png")
    with pytest.raises(
        ValueError, match=r"a\.png: expected an image that can be decoded, got no JPEG or PNG"
    ):
        photograph(tmp_path / "a.png").decode()


@pytest.mark.parametrize("extension", ["jpeg", "png", "bmp", "gif", "webp", "tiff"])
def test_an_image_may_have_the_name_of_another_format(extension: str, tmp_path: Path) -> None:
    Image.fromarray(IMAGE).save(tmp_path / f"a.{extension}")
    (tmp_path / f"a.{extension}").rename(tmp_path / "b.jpg")
    assert photograph(tmp_path / "b.jpg").decode().shape == IMAGE.shape


def declared(width: int, height: int) -> bytes:
    """A PNG file that says it has this size, with the checksum of its head put right."""
    head = b"IHDR" + struct.pack(">II", width, height) + b"\x08\x02\x00\x00\x00"
    raw = samples.png(IMAGE)
    return raw[:12] + head + struct.pack(">I", zlib.crc32(head)) + raw[33:]


@pytest.mark.parametrize(
    ("width", "height"), [(8192, 8193), (10_000, 10_000), (50_000, 50_000), (2**31 - 1, 1000)]
)
def test_an_image_that_says_it_is_huge(width: int, height: int) -> None:
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"^a: expected an image that can be decoded, got .*pixels"):
            encoded(declared(width, height), "a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda file: None, "no such file"),
    "a link to nothing": (lambda file: file.symlink_to("nothing"), "a link to something that is not there"),
    "a link to itself": (lambda file: file.symlink_to(file), "a link to something that is not there"),
    "a folder": (lambda file: file.mkdir(), "something that is no file"),
    "a pipe": (os.mkfifo, "something that is no file"),
    "a device": (lambda file: file.symlink_to("/dev/zero"), "something that is no file"),
}


@pytest.mark.parametrize(("make", "got"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_file_is_named(make: Callable[[Path], object], got: str, tmp_path: Path) -> None:
    make(tmp_path / "a.png")
    text = f"{tmp_path}/a.png: expected an image file, got {got}. Get the file again, or leave it out."
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        photograph(tmp_path / "a.png").decode()


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").write_bytes(samples.png(IMAGE))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match=r"a\.png: expected an image file, got Permission denied\."):
        photograph(tmp_path / "a.png").decode()


@pytest.mark.parametrize(("module", "package"), [("PIL.Image", "pillow"), ("h5py", "h5py")])
def test_a_missing_package_is_named(module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    text = (
        f"data of this form: expected the package {package}, got none installed. "
        "Run pip install 'metafunc[data]'."
    )
    with pytest.raises(ImportError, match=f"^{re.escape(text)}$"):
        optional(module, package)
