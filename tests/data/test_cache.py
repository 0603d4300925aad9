from __future__ import annotations

import re
from pathlib import Path

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
