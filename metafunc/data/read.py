"""Reads few-shot image data in whatever form it is kept."""

from pathlib import Path
from typing import BinaryIO

import numpy as np

from metafunc.data import cache as caches
from metafunc.data.dataset import ImageDataset
from metafunc.data.formats import Form, Picture, find
from metafunc.data.formats.pixels import resized
from metafunc.data.outline import Outline, faults, outline
from metafunc.data.progress import Progress, shown
from metafunc.data.tasks import check_count, refusal


def read(
    source: str | Path | Form,
    *,
    size: int | None = None,
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> ImageDataset:
    """Reads a data set of images, whose form it finds out.

    The images are decoded once, into a cache that later calls map into memory: they take no memory before they are
    looked at, and what the system needs it takes back. The cache is made anew when a file has changed.

    Args:
        source: the folder or file; or a form of `metafunc.data.formats` with options, such as
            `PackedOmniglot(path, table="lake")`.
        size: side to which images that have another size are resized, regardless of their proportions. Default: 28 for
            the files of Omniglot; anything else has to have one size, and is left as it is.
        cache: folder of the caches. Default: `$METAFUNC_CACHE`, else `~/.cache/metafunc`.
        progress: called with the number of images done and in all. Default: a bar where rich is installed and standard
            error is a terminal.

    Shapes: images uint8 [n, channels, height, width], class by class, one channel for Omniglot and three for all else.

    Cost: decoding the first time; later a look at the size and time of every file. The cache takes a byte a pixel
        and channel.

    Raises:
        ValueError: nothing is there, it has no known form, or something is wrong with it; the message names the file.
            `check` lists everything that is wrong.
        ImportError: the form needs Pillow or h5py, which the extra `data` installs.
    """
    if size is not None:
        check_count("size", size)
    form = source if isinstance(source, Form) else find(source)
    side = form.size if size is None else size
    place = caches.folder(cache) / caches.key(form, side)
    found = caches.opened(place)
    if found is None:
        _fill(place, form, side, progress)
        found = caches.opened(place)
    if found is None:
        raise refusal(
            str(place), "the cache just written", "none", "see whether something deletes files there"
        )
    return found


def _fill(place: Path, form: Form, side: int | None, progress: Progress | None) -> None:
    """Decodes the data into the cache at `place`."""
    # The data is indexed twice rather than kept: the index of a pickle is as large as its images, and nothing should be
    # decoded in vain where a later split is wrong.
    sizes = outline(form)
    _refuse(form, sizes)
    total = sum(sum(classes.values()) for classes in sizes.values())
    classes: dict[str, dict[str, int]] = {split: {} for split in sizes}
    with caches.staged(place) as stage, shown(progress, f"reading {form.path.name}") as show:
        with (stage / caches.IMAGES).open("wb") as stream:
            writer = _Writer(stream, side)
            for split in form.splits:
                for name, pictures in form.classes(split).items():
                    for picture in pictures:
                        writer.add(picture)
                        show(writer.count, total)
                    classes[split][name] = len(pictures)
        caches.write_table(stage, (writer.count, *writer.shape), classes, form.peak)


def _refuse(form: Form, sizes: Outline) -> None:
    fatal = [fault for fault in faults(form, sizes) if fault.fatal]
    if fatal:
        more = f" ({len(fatal) - 1} more like it)" if len(fatal) > 1 else ""
        raise ValueError(
            f"{fatal[0].kind}: {fatal[0].text.rstrip('.')}{more}. "
            f"Mend the data; `metafunc data check {form.path}` lists everything that is wrong with it."
        )


class _Writer:
    """Writes images one after another, all of one shape."""

    def __init__(self, stream: BinaryIO, side: int | None) -> None:
        self.count = 0
        self.shape: tuple[int, ...] = ()
        self._stream = stream
        self._side = side
        self._first = ""

    def add(self, picture: Picture) -> None:
        pixels = picture.decode()
        if self._side is not None:
            pixels = resized(pixels, self._side)
        channels_first = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        if self.count == 0:
            self.shape, self._first = channels_first.shape, picture.where
        if channels_first.shape != self.shape:
            raise refusal(
                picture.where,
                f"{_size(self.shape)}, as {self._first} has",
                _size(channels_first.shape),
                "pass size=84, say, to resize all images to one size",
            )
        self._stream.write(channels_first.tobytes())
        self.count += 1


def _size(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{height}x{width} pixels of {channels} channels"
