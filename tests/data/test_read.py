"""From files in any form to a data set."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metafunc.data import Episodes, ImageDataset
from metafunc.data.formats import PackedOmniglot
from metafunc.data.read import read
from tests.data.formats import samples
from tests.data.formats.samples import Expected
from tests.data.samples import real


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def holds(dataset: ImageDataset, expected: Expected) -> bool:
    """Whether a data set has these splits, classes and images, in this order."""
    names = [name for classes in expected.values() for name in classes]
    images = np.concatenate([samples.stacked(classes) for classes in expected.values()])
    labels = np.repeat(np.arange(len(names)), samples.EACH)
    homes = {split: [names.index(name) for name in classes] for split, classes in expected.items()}
    return (
        dataset.names == tuple(names)
        and dataset.labels.tolist() == labels.tolist()
        and {split: indices.tolist() for split, indices in dataset.splits.items()} == homes
        and dataset.images.dtype == torch.uint8
        and np.array_equal(dataset.images.numpy(), images.transpose(0, 3, 1, 2))
    )


FORMS: list[Callable[[Path], Expected]] = [
    samples.csv_files,
    samples.class_folders,
    samples.cache_pickles,
    samples.hdf5_files,
    samples.phase_pickles,
    samples.png_pickles,
]


@pytest.mark.parametrize("make", FORMS, ids=lambda make: make.__name__)
def test_photographs(make: Callable[[Path], Expected], data: Path, cache: Path) -> None:
    expected = make(data)
    if make is samples.cache_pickles:
        expected = {split: dict(reversed(classes.items())) for split, classes in expected.items()}
    dataset = read(data, cache=cache)
    assert holds(dataset, expected)
    assert dataset.peak == 255


def test_classes_may_differ_in_size(data: Path, cache: Path) -> None:
    samples.class_folders(data)
    (data / "train" / "n02" / "1.png").unlink()
    assert (
        read(data, cache=cache).labels.tolist() == [0] * 3 + [1] * 2 + [2] * 3 + [3] * 3 + [4] * 3 + [5] * 3
    )


@pytest.mark.parametrize("zipped", [False, True])
def test_omniglot_is_shrunk_and_grey_and_its_ink_is_bright(zipped: bool, data: Path, cache: Path) -> None:
    expected = samples.omniglot(data, zipped=zipped)
    dataset = read(data, cache=cache)
    assert dataset.images.shape == (18, 1, 28, 28)
    assert dataset.peak == 255
    assert dataset.names[0] == "train-Greek/character01"
    assert {split: indices.tolist() for split, indices in dataset.splits.items()} == {
        "train": [0, 1, 2],
        "test": [3, 4, 5],
    }
    drawing = expected["train"]["train-Greek/character01"][0]
    shrunk = np.asarray(Image.fromarray(drawing[..., 0]).resize((28, 28), Image.Resampling.BILINEAR))
    assert np.array_equal(dataset.images[0, 0].numpy(), shrunk)
    assert 20 < dataset.images.float().mean() < 30  # a tenth of 255 is ink


def test_packed_omniglot_is_ink_or_not(data: Path, cache: Path) -> None:
    expected = samples.packed_omniglot(data / "o.npz")
    dataset = read(data / "o.npz", cache=cache)
    assert holds(dataset, expected)
    assert dataset.peak == 1


def test_a_form_may_be_given_with_its_options(data: Path, cache: Path) -> None:
    samples.packed_omniglot(data / "o.npz")
    lake = read(PackedOmniglot(data / "o.npz", table="lake"), cache=cache)
    assert {split: indices.tolist() for split, indices in lake.splits.items()} == {
        "train": [0, 1, 2],
        "test": [3, 4, 5],
    }
    assert set(read(data / "o.npz", cache=cache).splits) == {"train", "val", "test"}


def test_images_of_many_sizes_become_one(data: Path, cache: Path) -> None:
    samples.class_folders(data)
    wide = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    samples.put(data / "val" / "n03" / "1.png", samples.png(wide))
    text = (
        f"{data}/val/n03/1.png: expected 6x6 pixels of 3 channels, as {data}/train/n01/0.png has, "
        "got 6x9 pixels of 3 channels. Pass size=84, say, to resize all images to one size."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        read(data, cache=cache)
    assert list(cache.iterdir()) == []
    assert read(data, size=4, cache=cache).images.shape == (18, 3, 4, 4)


def test_images_of_the_size_are_not_touched(data: Path, cache: Path) -> None:
    expected = samples.class_folders(data)
    assert holds(read(data, size=samples.SIDE, cache=cache), expected)


def test_it_goes_into_episodes(data: Path, cache: Path) -> None:
    samples.csv_files(data)
    tasks = Episodes(read(data, cache=cache).split("train"), ways=2, queries=2).sample(
        3, torch.Generator().manual_seed(0)
    )
    assert tasks["support"][0].shape == (3, 2, 3, 6, 6)


def interrupt(done: int, total: int) -> None:
    if done == 4:
        raise KeyboardInterrupt


def test_progress_is_told(data: Path, cache: Path) -> None:
    samples.csv_files(data)
    seen: list[tuple[int, int]] = []
    read(data, cache=cache, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 18) for done in range(1, 19)]


def test_it_is_decoded_once(data: Path, cache: Path) -> None:
    samples.hdf5_files(data)
    first = read(data, cache=cache)
    again = read(data, cache=cache, progress=lambda done, total: pytest.fail("decoded again"))
    assert torch.equal(first.images, again.images)
    assert first.names == again.names
    assert torch.equal(first.labels, again.labels)
    assert len(list(cache.iterdir())) == 1


def test_another_size_is_another_cache(data: Path, cache: Path) -> None:
    samples.class_folders(data)
    assert [read(data, size=size, cache=cache).images.shape[-1] for size in (None, 3, 2)] == [6, 3, 2]


def test_a_changed_file_is_decoded_anew(data: Path, cache: Path) -> None:
    expected = samples.class_folders(data)
    before = read(data, cache=cache)
    file = data / "test" / "n06" / "2.png"
    state = file.stat()
    samples.put(file, samples.png(255 - expected["test"]["n06"][2]))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    after = read(data, cache=cache)
    assert torch.equal(after.images[:-1], before.images[:-1])
    assert torch.equal(after.images[-1], 255 - before.images[-1])


def test_the_images_may_be_written_to_without_harm(data: Path, cache: Path) -> None:
    samples.class_folders(data)
    read(data, cache=cache).images.zero_()
    assert read(data, cache=cache).images.any()


def test_the_cache_is_where_the_environment_says(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples.class_folders(data)
    monkeypatch.setenv("METAFUNC_CACHE", str(tmp_path / "named"))
    read(data)
    assert (tmp_path / "named").is_dir()
    monkeypatch.delenv("METAFUNC_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    read(data)
    assert (tmp_path / "home" / ".cache" / "metafunc").is_dir()


def test_an_interrupt_leaves_nothing(data: Path, cache: Path) -> None:
    expected = samples.class_folders(data)
    with pytest.raises(KeyboardInterrupt):
        read(data, cache=cache, progress=interrupt)
    assert list(cache.iterdir()) == []
    assert holds(read(data, cache=cache), expected)


def test_what_a_killed_process_leaves_is_not_taken_for_whole(data: Path, cache: Path) -> None:
    expected = samples.class_folders(data)
    code = (
        "import os, sys; from metafunc.data.read import read\n"
        "read(sys.argv[1], cache=sys.argv[2], progress=lambda done, _: done < 17 or os.kill(os.getpid(), 9))"
    )
    command = [sys.executable, "-c", code, str(data), str(cache)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [folder.suffix for folder in cache.iterdir()] == [".partial"]
    assert holds(read(data, cache=cache), expected)


def test_two_that_read_at_once_do_not_disturb_each_other(data: Path, cache: Path) -> None:
    expected = samples.class_folders(data)
    others: list[ImageDataset] = []

    def meanwhile(done: int, total: int) -> None:
        if done == 9:
            others.append(read(data, cache=cache))

    assert holds(read(data, cache=cache, progress=meanwhile), expected)
    assert holds(others[0], expected)
    assert len(list(cache.iterdir())) == 1


def test_a_cache_that_lost_its_end_is_made_anew(data: Path, cache: Path) -> None:
    expected = samples.class_folders(data)
    read(data, cache=cache)
    (place,) = cache.iterdir()
    with (place / "images.bin").open("r+b") as file:
        file.truncate(100)
    assert holds(read(data, cache=cache), expected)


@pytest.mark.parametrize("name", ["images.bin", "table.json"])
def test_a_cache_that_lost_a_file_is_made_anew(name: str, data: Path, cache: Path) -> None:
    expected = samples.class_folders(data)
    read(data, cache=cache)
    (place,) = cache.iterdir()
    (place / name).unlink()
    assert holds(read(data, cache=cache), expected)


@pytest.mark.parametrize("table", [b"", b"{", b"\0" * 40, b"[]"])
def test_a_cache_whose_table_is_broken_is_made_anew(table: bytes, data: Path, cache: Path) -> None:
    expected = samples.class_folders(data)
    read(data, cache=cache)
    (place,) = cache.iterdir()
    (place / "table.json").write_bytes(table)
    assert holds(read(data, cache=cache), expected)
    assert list(cache.iterdir()) == [place]


def spoil_class(data: Path) -> None:
    shutil.copytree(data / "train" / "n01", data / "test" / "n01")


def spoil_image(data: Path) -> None:
    file = data / "val" / "n03" / "1.png"
    file.write_bytes(file.read_bytes()[:80])


def spoil_empty(data: Path) -> None:
    (data / "val" / "n00").mkdir()


END = "Mend the data; `metafunc data check {data}` lists everything that is wrong with it."
WRONG: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any], str]] = {
    "a class in two splits": (
        samples.class_folders,
        spoil_class,
        "classes in two splits: n01 is in train and in test of {data}. Its images would be trained on and judged by. "
        + END,
    ),
    "a class without an image": (
        samples.class_folders,
        spoil_empty,
        "classes without an image: n00 of val in {data} has no image. " + END,
    ),
    "a split without a class": (
        samples.csv_files,
        lambda data: (data / "val.csv").write_text("filename,label\n"),
        "splits without a class: val of {data} has no class. Fill it, or delete it. " + END,
    ),
    "a row without an image": (
        samples.csv_files,
        lambda data: (data / "images" / "n0300000002.png").unlink(),
        "csv rows without an image: {data}/val.csv: n0300000002.png is not in {data}/images. " + END,
    ),
    "rows without an image": (
        samples.csv_files,
        lambda data: [file.unlink() for file in (data / "images").glob("n06*")],
        "csv rows without an image: {data}/test.csv: n0600000000.png is not in {data}/images (2 more like it). "
        + END,
    ),
}


@pytest.mark.parametrize(("make", "spoil", "text"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_before_anything_is_decoded(
    make: Callable[[Path], Any], spoil: Callable[[Path], Any], text: str, data: Path, cache: Path
) -> None:
    make(data)
    spoil(data)
    with pytest.raises(ValueError, match=f"^{re.escape(text.format(data=data))}$"):
        read(data, cache=cache, progress=lambda done, total: pytest.fail("decoded"))
    assert not cache.exists()


def test_a_broken_image_is_named_and_leaves_no_cache(data: Path, cache: Path) -> None:
    samples.class_folders(data)
    spoil_image(data)
    with pytest.raises(ValueError, match=r"/val/n03/1\.png: expected an image that can be decoded, got "):
        read(data, cache=cache)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(("size", "got"), [(0, "0"), (84.0, "float 84.0"), (True, "bool True")])
def test_a_size_is_an_integer(size: Any, got: str, data: Path) -> None:
    text = f"size: expected an integer of at least 1, got {got}. Give size such a value, e.g. size=5."
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(text)}$"):
        read(data, size=size)


def test_a_missing_package_is_named(data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples.hdf5_files(data)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        ImportError, match=r"package h5py, got none installed. Run pip install 'metafunc\[data\]'"
    ):
        read(data, cache=cache)


def test_the_whole_of_omniglot_splits_as_in_maml(cache: Path) -> None:
    dataset = read(real("omniglot28.npz"), cache=cache)
    assert dataset.images.shape == (32460, 1, 28, 28)
    assert dataset.peak == 1
    again = dataset.resplit(train=1100, val=100, test=423)
    assert {split: len(indices) for split, indices in again.splits.items()} == {
        "train": 1100,
        "val": 100,
        "test": 423,
    }


def test_a_part_of_miniimagenet(cache: Path) -> None:
    folder = real("miniimagenet_s100")
    dataset = read(folder, cache=cache)
    assert dataset.images.shape == (8000, 3, 84, 84)
    assert {split: len(indices) for split, indices in dataset.splits.items()} == {"train": 64, "val": 16}
    names = [line.split(",") for line in (folder / "val.csv").read_text().splitlines()[1:]]
    file, label = names[-1]
    assert dataset.names[int(dataset.labels[-1])] == label
    with Image.open(folder / "images" / file) as image:
        assert np.array_equal(dataset.images[-1].permute(1, 2, 0).numpy(), np.asarray(image.convert("RGB")))
