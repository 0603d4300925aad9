"""The files of a run, and which files of a folder these are."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from metafunc.data.files import write_atomically
from metafunc.training import errors

NAMES = ("last.pt", "best.pt", "training.csv", "validation.csv", "settings.json")


class Folder:
    """A folder with the list of what a run has written there, ``run.json``; nothing else in it is ever touched.

    Args:
        path: The folder; it exists.

    Raises:
        ValueError: If the list cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._list = path / "run.json"
        self._files: list[str] = []
        self._events: list[str] = []
        if os.path.lexists(self._list):
            found = read_json(self._list)
            self._files, self._events = found.get("files", []), found.get("events", [])
            # Names from a file decide what is deleted: no others than those that a run writes.
            known = isinstance(self._files, list) and set(self._files) <= set(NAMES)
            if not known or not all(re.fullmatch("[0-9a-f]{32}", str(token)) for token in self._events):
                raise errors.not_readable(self._list, "the list of a run's files", "it names other files")

    @property
    def has_run(self) -> bool:
        """Whether a run has written here."""
        return bool(self._files)

    def claim(self, *names: str) -> None:
        """Takes names for files of the run.

        Raises:
            ValueError: If somebody else has a file by such a name.
        """
        new = [name for name in names if name not in self._files]
        others = [name for name in new if os.path.lexists(self.path / name)]
        if others:
            raise errors.files_of_others(self.path, others)
        if new:
            self._files += new
            self._save()

    def claim_events(self) -> str:
        """A new ending for the name of a TensorBoard file of the run."""
        self._events.append(uuid4().hex)
        self._save()
        return self._events[-1]

    def clear(self) -> None:
        """Deletes what the run has written, the checkpoint first: without it there is no run."""
        files = [self.path / name for name in sorted(self._files, key=lambda name: name != "last.pt")]
        files += [file for token in self._events for file in self.path.glob(f"events.out.tfevents.*.{token}")]
        folders = [file.name for file in files if file.is_dir()]
        if folders:
            raise errors.files_of_others(self.path, folders)
        for file in files:
            file.unlink(missing_ok=True)
        self.sweep()
        self._files, self._events = [], []
        self._save()

    def sweep(self) -> None:
        """Deletes what a killed run left of files that were being written."""
        for name in (*self._files, self._list.name):
            for part in self.path.glob(f"{name}.*.partial"):
                if re.fullmatch(re.escape(name) + r"\.[0-9a-f]{32}\.partial", part.name):
                    part.unlink(missing_ok=True)

    def _save(self) -> None:
        write_json(self._list, {"files": self._files, "events": self._events})


def read_json(path: Path) -> dict[str, Any]:
    """What a file holds.

    Raises:
        ValueError: If that is no mapping in JSON.
    """
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise errors.not_readable(path, "a mapping in JSON", str(error)) from error
    if not isinstance(found, dict):
        raise errors.not_readable(path, "a mapping in JSON", f"it holds a {type(found).__name__}")
    return cast("dict[str, Any]", found)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a file that is whole or not there."""
    text = json.dumps(values, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
