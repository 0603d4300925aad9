"""A folder is that of one run at a time."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import IO

from metafunc.training import errors

_guard = threading.Lock()
_held: set[Path] = set()
"""What this process holds: the system's lock is the process's, and would let its other threads pass."""


class Lock:
    """While this context is open, no other one can be opened for the same folder, by this process or another.

    It is the operating system's lock of an open file, so that it ends with the process, however that ends; the file
    itself stays. Where a file system has no locks, only this process is kept out.

    Raises:
        RuntimeError: If it is open already.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder.resolve(), folder / "run.lock"
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Lock:
        with _guard:
            if self._folder in _held:
                raise errors.folder_in_use(self._folder)
            self._file = self._path.open("ab")
            try:
                _lock(self._file.fileno())
            except (BlockingIOError, PermissionError) as error:
                self._file.close()
                raise errors.folder_in_use(self._folder) from error
            except OSError:
                pass
            _held.add(self._folder)
        return self

    def __exit__(self, *_: object) -> None:
        with _guard:
            _held.discard(self._folder)
            if self._file is not None:
                self._file.close()


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: int) -> None:
        # Of the process, not of the open file as flock's: a worker that was forked and outlives it has none.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
