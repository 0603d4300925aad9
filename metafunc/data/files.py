"""Files that are whole or not there."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that what is at `path`, at any moment, is the old file or the new one, never a part of one.

    This holds for an exception, a kill and a loss of power alike: the new file is written under another name in the
    same folder, brought to the disk, and then takes its place in one step. Only a process that is killed leaves that
    other file, whose name is `<name>.<32 digits>.partial`.

    Args:
        path: where the file goes; its folder exists.
        write: writes the contents to the open file it is given, such as `lambda file: torch.save(state, file)`.

    Raises:
        OSError: the file cannot be written. The old one is still there.
    """
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            write(file)
        settle(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def settle(partial: Path, path: Path) -> None:
    """Brings a file that is complete to the disk, and then gives it its name, in place of what had that name."""
    sync(partial)
    partial.replace(path)
    sync_folder(path.parent)


def sync(path: Path) -> None:
    """Returns when the contents of a file are on the disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Returns when the names of the files in a folder are on the disk, where the system can say so (not on Windows)."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
