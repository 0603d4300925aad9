"""A file that is written is whole or not there, whatever happens."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from metafunc.data import files
from metafunc.data.files import write_atomically


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_file_is_written_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for contents in (b"a long first one", b"second"):
        write_atomically(path, lambda file, contents=contents: file.write(contents))
        assert path.read_bytes() == contents
    assert names(tmp_path) == ["a.json"]


def test_torch_can_write_to_it(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.pt", lambda file: torch.save({"a": torch.arange(3)}, file))
    assert torch.load(tmp_path / "a.pt", weights_only=True)["a"].tolist() == [0, 1, 2]


def test_it_may_be_read_by_whom_a_plain_file_may(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "a", lambda file: None)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "a")}
    assert len(modes) == 1


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_fails_leaves_the_old_file_and_nothing_else(error: type[BaseException], tmp_path: Path) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        assert (tmp_path / "a").read_bytes() == b"old"
        raise error

    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(error):
        write_atomically(tmp_path / "a", fail)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_kill_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    code = (
        "import os, sys, pathlib; from files import write_atomically\n"
        "def write(file): file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)\n"
        "write_atomically(pathlib.Path(sys.argv[1]), write)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    # From its own folder, for the whole package takes seconds to load.
    done = subprocess.run(command, cwd=Path(files.__file__).parent, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [name.rpartition(".")[2] for name in names(tmp_path)] == ["a", "partial"]


def test_the_contents_are_on_the_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, Any]] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        there = os.fstat(handle)
        folder = stat.S_ISDIR(there.st_mode)
        seen.append(("folder" if folder else "file", names(tmp_path) if folder else there.st_size))
        fsync(handle)

    def replaced(old: Any, new: Any, **options: Any) -> None:
        seen.append(("rename", Path(new).name))
        replace(old, new, **options)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_atomically(tmp_path / "a", lambda file: file.write(b"12345"))
    assert seen == [("file", 5), ("rename", "a"), ("folder", ["a"])]


def test_a_folder_that_cannot_be_synced_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(PermissionError))
    write_atomically(tmp_path / "a", lambda file: file.write(b"x"))
    assert (tmp_path / "a").read_bytes() == b"x"
