"""From the bytes of an image file, or from a row of an array, to pixels."""

from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from metafunc.data.formats.form import Picture, Pixels
from metafunc.data.formats.optional import optional
from metafunc.data.tasks import refusal

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
"""Of the files that count as images."""


def photograph(file: Path) -> Picture:
    """A colour image in a file of its own."""
    return Picture(str(file), partial(_from_file, file))


def _from_file(file: Path) -> Pixels:
    with file.open("rb") as stream:
        return decode(stream, str(file), "RGB")


def encoded(data: bytes, where: str) -> Pixels:
    """A colour image from the bytes of its file."""
    return decode(BytesIO(data), where, "RGB")


def decode(stream: IO[bytes], where: str, mode: str) -> Pixels:
    """Decodes an image file of any kind that Pillow knows.

    Args:
        stream: the file.
        where: what to call it in a message.
        mode: "RGB" for three channels, "L" for one.

    Shapes: uint8 [height, width, 3 or 1].

    Raises:
        ValueError: it is truncated, or no image at all.
        ImportError: Pillow is not installed.
    """
    pillow = optional("PIL.Image", "pillow")
    try:
        with pillow.open(stream) as image:
            pixels = np.asarray(image.convert(mode))
    # Broken PNG files raise SyntaxError, broken headers whatever the unpacking of them raises.
    except Exception as error:
        raise refusal(
            where,
            "an image that can be decoded",
            str(error) or type(error).__name__,
            "get the file again; `metafunc data check` lists every broken one",
        ) from error
    return pixels.reshape(*pixels.shape[:2], -1)


def resized(pixels: Pixels, size: int) -> Pixels:
    """The image as a square of `size` pixels, whatever its proportions, and itself if it is one already.

    Maths: each pixel is the mean of those it covers, weighted by a triangle as wide as two new pixels (Pillow's
    antialiased bilinear filter, which is also torchvision's default).
    """
    if pixels.shape[:2] == (size, size):
        return pixels
    pillow = optional("PIL.Image", "pillow")
    image = pillow.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    small = np.asarray(image.resize((size, size), pillow.Resampling.BILINEAR))
    return small.reshape(size, size, -1)


def rows(images: Any, labels: Sequence[str], where: str) -> dict[str, list[Picture]]:
    """The images of an array by their labels.

    Args:
        images: uint8 [n, height, width, channels].
        labels: the class of each image.
        where: the file they are from.

    Raises:
        ValueError: the array is not as said, or there are not as many labels as images.
    """
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        raise refusal(
            where,
            "images as an array, uint8 [n, height, width, channels]",
            describe(images),
            "write the file anew with bytes, channels last",
        )
    if len(labels) != len(images):
        raise refusal(
            where,
            f"one label for each of the {len(images)} images",
            len(labels),
            "get the file again, or write it anew",
        )
    found: dict[str, list[Picture]] = {label: [] for label in labels}
    for row, label in enumerate(labels):
        found[label].append(Picture(f"{where} row {row}", partial(images.__getitem__, row)))
    return found


def describe(value: object) -> str:
    """The dtype and shape of an array, the type of anything else."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"a {type(value).__name__}"
