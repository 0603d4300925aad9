"""From the bytes of an image file, or from a row of an array, to pixels."""

from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from metafunc.data.formats.form import Picture, Pixels
from metafunc.data.formats.optional import optional
from metafunc.data.tasks import refusal

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
"""Of the files that count as images."""
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
"""What may be in them, in any of them. Pillow knows some forty more, and starts another program for one of them."""
LAYOUT = "uint8 [n, height, width, 1 or 3 channels]"
"""Of images as an array."""
PIXELS = 1 << 26
"""So many an image has at most, 8192 x 8192: Pillow's own limit only warns at first."""


def photograph(file: Path) -> Picture:
    """A colour image in a file of its own."""
    return Picture(str(file), partial(_from_file, file))


def _from_file(file: Path) -> Pixels:
    with open_image(file) as stream:
        return decode(stream, str(file), "RGB")


def open_image(file: Path) -> BinaryIO:
    """The file of an image.

    Raises:
        ValueError: there is no such file, it is a link to nothing or no file at all, or it may not be read.
    """
    try:
        # A pipe would be waited for, a device has no end.
        got = None if file.is_file() else _not_a_file(file)
        if got is None:
            return file.open("rb")
    except OSError as error:
        got = error.strerror or str(error)
    raise refusal(str(file), "an image file", got, "get the file again, or leave it out")


def _not_a_file(file: Path) -> str:
    if file.exists():
        return "something that is no file"
    return "a link to something that is not there" if file.is_symlink() else "no such file"


def encoded(data: bytes, where: str) -> Pixels:
    """A colour image from the bytes of its PNG file."""
    return decode(BytesIO(data), where, "RGB", ("PNG",))


def decode(stream: IO[bytes], where: str, mode: str, formats: Sequence[str] = FORMATS) -> Pixels:
    """Decodes an image file.

    Args:
        stream: the file.
        where: what to call it in a message.
        mode: "RGB" for three channels, "L" for one.
        formats: what it may be, by Pillow's names.

    Shapes: uint8 [height, width, 3 or 1].

    Raises:
        ValueError: it is truncated, of another format, larger than `PIXELS`, or no image at all.
        ImportError: Pillow is not installed.
    """
    pillow = optional("PIL.Image", "pillow")
    try:
        with pillow.open(stream, formats=formats) as image:
            if image.width * image.height > PIXELS:
                raise ValueError(f"{image.height}x{image.width} pixels")
            pixels = np.asarray(image.convert(mode))
    # Broken PNG files raise SyntaxError, broken headers whatever the unpacking of them raises.
    except Exception as error:
        unknown = isinstance(error, pillow.UnidentifiedImageError)
        got = f"no {' or '.join(formats)} file" if unknown else str(error) or type(error).__name__
        raise refusal(
            where,
            "an image that can be decoded",
            got,
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


def check_rows(images: Any, where: str) -> NDArray[np.uint8]:
    """The value, if it is images as an array, of that layout; raises if not."""
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and is_of_images(images.shape[1:]):
        return cast(NDArray[np.uint8], images)
    raise refusal(
        where,
        f"images as an array, {LAYOUT}",
        describe(images),
        "write the file anew with bytes, channels last",
    )


def is_of_images(shape: Sequence[int]) -> bool:
    """Whether this is [height, width, channels]. What has the channels first has too many of them."""
    return len(shape) == 3 and min(shape) > 0 and shape[2] in (1, 3)


def rows(images: NDArray[np.uint8], labels: Sequence[str], where: str) -> dict[str, list[Picture]]:
    """The images of an array by their labels.

    Args:
        images: as `check_rows` wants them.
        labels: the class of each image.
        where: the file they are from.

    Raises:
        ValueError: there are not as many labels as images.
    """
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
