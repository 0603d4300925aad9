from __future__ import annotations

import re
import sys
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


@pytest.mark.parametrize(("module", "package"), [("PIL.Image", "pillow"), ("h5py", "h5py")])
def test_a_missing_package_is_named(module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    text = (
        f"data of this form: expected the package {package}, got none installed. "
        "Run pip install 'metafunc[data]'."
    )
    with pytest.raises(ImportError, match=f"^{re.escape(text)}$"):
        optional(module, package)
