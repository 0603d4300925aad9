"""Decoded images on disk, to be mapped into memory."""

import hashlib
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Any, TypedDict
from uuid import uuid4

import torch
from torch import Tensor

from metafunc.data.dataset import ImageDataset
from metafunc.data.files import sync, sync_folder
from metafunc.data.formats import Form

VERSION = 1
"""Of what is written: to be raised when other bytes come of the same files, so that old caches are left alone."""

IMAGES, TABLE = "images.bin", "table.json"


def folder(chosen: str | Path | None) -> Path:
    """Where caches are: as chosen, else `$METAFUNC_CACHE`, else `~/.cache/metafunc`."""
    named = chosen or os.environ.get("METAFUNC_CACHE") or Path.home() / ".cache" / "metafunc"
    return Path(named).expanduser().resolve()


def key(form: Form, size: int | None) -> str:
    """A name that changes with what would be read: the form and its options, the size, and the path, length and time of
    change of every file."""
    digest = hashlib.sha256(repr((VERSION, form, size)).encode())
    for file in form.files():
        state = file.stat() if file.exists() else None
        seen = (str(file), state and state.st_size, state and state.st_mtime_ns)
        digest.update(repr(seen).encode())
    return f"{type(form).__name__.lower()}-{digest.hexdigest()[:20]}"


@contextmanager
def staged(place: Path) -> Generator[Path, None, None]:
    """A folder to write a cache into, which then takes its place in one step, when all of it is on the disk.

    What is interrupted leaves nothing in that place; only a process that is killed leaves the folder it wrote into,
    whose name ends in `.partial`. Of two processes that write the same cache at once the first one's is kept.
    """
    stage = _beside(place)
    stage.mkdir(parents=True)
    try:
        yield stage
        for file in stage.iterdir():
            sync(file)
        sync_folder(stage)
        try:
            stage.rename(place)
        except OSError:
            if not place.is_dir():
                raise
        sync_folder(place.parent)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def write_table(stage: Path, shape: tuple[int, ...], classes: dict[str, dict[str, int]], peak: int) -> None:
    """Writes what is needed beside the bytes: their shape [n, channels, height, width], and the classes in their
    order."""
    table = {"shape": shape, "classes": classes, "peak": peak}
    (stage / TABLE).write_text(json.dumps(table), encoding="utf-8")


def opened(place: Path) -> ImageDataset | None:
    """The data set in a cache, mapped into memory, or None where there is none. What is not whole is deleted."""
    if not place.is_dir():
        return None
    table = _table(place)
    if table is not None:
        # Private pages: the file stays as it is whatever the user does to the images.
        flat = torch.from_file(
            str(place / IMAGES), shared=False, size=prod(table["shape"]), dtype=torch.uint8
        )
        try:
            return _dataset(flat.reshape(table["shape"]), table)
        except ValueError:  # classes or bytes that contradict each other
            pass
    _discard(place)
    return None


class _Table(TypedDict):
    """What `write_table` writes."""

    shape: list[int]
    classes: dict[str, dict[str, int]]
    peak: int


def _dataset(images: Tensor, table: _Table) -> ImageDataset:
    sizes = [size for classes in table["classes"].values() for size in classes.values()]
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    names = tuple(name for classes in table["classes"].values() for name in classes)
    splits: dict[str, Tensor] = {}
    first = 0
    for split, classes in table["classes"].items():
        splits[split] = torch.arange(first, first + len(classes))
        first += len(classes)
    return ImageDataset(images, labels, names, splits, table["peak"])


def _table(place: Path) -> _Table | None:
    """The table of a cache that is whole. It was when it took its place, but a disk that fails, or somebody short of
    space, may have changed that."""
    if not ((place / IMAGES).is_file() and (place / TABLE).is_file()):
        return None
    try:
        table: Any = json.loads((place / TABLE).read_bytes())
        shape, classes, peak = table["shape"], table["classes"], table["peak"]
        sizes = [size for split in classes.values() for size in split.values()]
        sound = all(type(number) is int and number > 0 for number in (*shape, *sizes, peak))
        whole = sound and sum(sizes) == shape[0] and prod(shape) == (place / IMAGES).stat().st_size
    # Whatever a table that is none raises: it is no JSON, it has no such entries, they are of another type.
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    return table if whole else None


def _discard(place: Path) -> None:
    """Deletes a cache. It loses its name first, in one step, so that nobody takes up what is half deleted."""
    gone = _beside(place)
    with suppress(FileNotFoundError):  # another process was quicker
        place.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _beside(place: Path) -> Path:
    """A name in the same folder that nobody else uses, and nobody reads from."""
    return place.with_name(f"{place.name}.{uuid4().hex}.partial")
