from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from metafunc.data.cache import key, opened, staged
from metafunc.data.formats import ClassFolders, PackedOmniglot
from tests.data.formats import samples


def test_the_key_is_of_the_form_its_options_and_the_size(tmp_path: Path) -> None:
    samples.packed_omniglot(tmp_path / "o.npz")
    vinyals, lake = PackedOmniglot(tmp_path / "o.npz"), PackedOmniglot(tmp_path / "o.npz", "lake")
    keys = [key(vinyals, None), key(lake, None), key(vinyals, 28)]
    assert len(set(keys)) == 3
    assert key(vinyals, None) == keys[0]
    assert all(re.fullmatch("packedomniglot-[0-9a-f]{20}", name) for name in keys)


def test_the_key_is_of_every_file(tmp_path: Path) -> None:
    samples.class_folders(tmp_path)
    form = ClassFolders(tmp_path)
    before = key(form, None)
    file = tmp_path / "val" / "n03" / "2.png"
    with file.open("ab") as stream:
        stream.write(b"x")
    longer = key(form, None)
    file.unlink()
    assert len({before, longer, key(form, None)}) == 3


def test_a_stage_takes_its_place_when_it_is_done(tmp_path: Path) -> None:
    place = tmp_path / "new" / "folder" / "cache"
    with staged(place) as stage:
        (stage / "a").write_text("whole")
        assert not place.exists()
    assert (place / "a").read_text() == "whole"
    assert list(place.parent.iterdir()) == [place]


def test_a_stage_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with staged(tmp_path / "cache") as stage:
            (stage / "a").write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_is_kept(tmp_path: Path) -> None:
    with staged(tmp_path / "cache") as late:
        (late / "a").write_text("late")
        with staged(tmp_path / "cache") as early:
            (early / "a").write_text("early")
    assert (tmp_path / "cache" / "a").read_text() == "early"
    assert [file.name for file in tmp_path.iterdir()] == ["cache"]


def test_what_stands_in_the_place_of_a_cache_is_no_cache(tmp_path: Path) -> None:
    def write() -> None:
        with staged(tmp_path / "cache"):
            (tmp_path / "cache").write_text("a file")

    with pytest.raises(OSError, match="cache"):
        write()
    assert opened(tmp_path / "cache") is None
    assert opened(tmp_path / "nothing") is None


def test_a_cache_is_on_the_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    fsync = os.fsync

    def synced(handle: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else f"{os.fstat(handle).st_size} bytes"
        seen.append(f"{kind}, {'in place' if (tmp_path / 'cache').exists() else 'beside'}")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    with staged(tmp_path / "cache") as stage:
        (stage / "images").write_bytes(b"12345")
        (stage / "table").write_bytes(b"123")
    assert sorted(seen[:2]) == ["3 bytes, beside", "5 bytes, beside"]
    assert seen[2:] == ["folder, beside", "folder, in place"]


WHOLE: dict[str, Any] = {"shape": [3, 1, 2, 2], "classes": {"train": {"a": 2, "b": 1}}, "peak": 255}
BROKEN: dict[str, bytes] = {
    "empty": b"",
    "cut off": json.dumps(WHOLE).encode()[:-20],
    "zeros, as a loss of power leaves": b"\0" * 60,
    "no text": b"\xff\xfe\xfd",
    "a list": b"[1, 2]",
    "nested without end": b"[" * 100_000,
    **{
        name: json.dumps(WHOLE | change).encode()
        for name, change in {
            "no shape": {"shape": None},
            "a shape of another size": {"shape": [3, 1, 2, 3]},
            "a negative shape": {"shape": [3, 1, -2, -2]},
            "a shape of three": {"shape": [3, 2, 2]},
            "a shape of floats": {"shape": [3, 1, 2, 2.0]},
            "no classes": {"classes": {}},
            "classes in a list": {"classes": [1, 2]},
            "an empty split": {"classes": {"train": {"a": 2, "b": 1}, "val": {}}},
            "a class without an image": {"classes": {"train": {"a": 3, "b": 0}}},
            "a class twice": {"classes": {"train": {"a": 2}, "val": {"a": 1}}},
            "more images than there are": {"classes": {"train": {"a": 2, "b": 2}}},
            "a peak of 0": {"peak": 0},
            "a peak below the bytes": {"peak": 1},
        }.items()
    },
}


def put(place: Path, table: bytes) -> None:
    place.mkdir()
    (place / "images.bin").write_bytes(bytes(range(12)))
    (place / "table.json").write_bytes(table)


def test_a_whole_cache_is_opened(tmp_path: Path) -> None:
    put(tmp_path / "cache", json.dumps(WHOLE).encode())
    dataset = opened(tmp_path / "cache")
    assert dataset is not None
    assert dataset.images.flatten().tolist() == list(range(12))
    assert (dataset.labels.tolist(), dataset.names) == ([0, 0, 1], ("a", "b"))


@pytest.mark.parametrize("table", BROKEN.values(), ids=BROKEN)
def test_a_broken_table_is_no_cache_and_does_not_stay(table: bytes, tmp_path: Path) -> None:
    put(tmp_path / "cache", table)
    assert opened(tmp_path / "cache") is None
    assert list(tmp_path.iterdir()) == []


def test_two_may_find_a_cache_broken_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "cache", b"")
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        rename(self, tmp_path / "of-the-quicker-one")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    assert opened(tmp_path / "cache") is None
