"""Small data sets in every form, with the pixels that should come of them."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Expected = dict[str, dict[str, NDArray[np.uint8]]]
"""Split -> class -> its images, [n, height, width, channels]."""

SIDE, EACH = 6, 3


def colours(names: dict[str, tuple[str, ...]] | None = None) -> Expected:
    """Random colour images, three of each of two classes a split, all different."""
    random = np.random.default_rng(0)
    named = names or {"train": ("n01", "n02"), "val": ("n03", "n04"), "test": ("n05", "n06")}
    return {
        split: {name: random.integers(0, 256, (EACH, SIDE, SIDE, 3), np.uint8) for name in classes}
        for split, classes in named.items()
    }


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def put(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def stacked(classes: dict[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.concatenate(list(classes.values()))


def csv_files(path: Path, column: str = "label", folder: str = "") -> Expected:
    expected = colours()
    (path / folder).mkdir(parents=True, exist_ok=True)
    for split, classes in expected.items():
        with (path / folder / f"{split}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["filename", column])
            for name, images in classes.items():
                for row, image in enumerate(images):
                    put(path / "images" / f"{name}{row:08}.png", png(image))
                    writer.writerow([f"{name}{row:08}.png", name])
    return expected


def class_folders(path: Path) -> Expected:
    expected = colours()
    for split, classes in expected.items():
        for name, images in classes.items():
            for row, image in enumerate(images):
                put(path / split / name / f"{row}.png", png(image))
            put(path / split / name / ".DS_Store", b"of a Mac")
    return expected


def cache_pickles(
    path: Path, second: str = "val", keys: Callable[[str], object] = str, protocol: int = 4
) -> Expected:
    expected = colours()
    for split, classes in expected.items():
        # Last class first, so that the rows of a class are not simply those in its turn.
        last = EACH * len(classes) - 1
        members = {
            keys(name): [last - row for row in range(EACH * index, EACH * (index + 1))]
            for index, name in enumerate(classes)
        }
        images = stacked(classes)[::-1].copy()
        contents = {keys("image_data"): images, keys("class_dict"): members}
        name = second if split == "val" else split
        put(path / f"mini-imagenet-cache-{name}.pkl", pickle.dumps(contents, protocol))
    return {s: {name: images[::-1] for name, images in classes.items()} for s, classes in expected.items()}


def hdf5_files(path: Path) -> Expected:
    expected = colours()
    path.mkdir(parents=True, exist_ok=True)
    for split, classes in expected.items():
        with h5py.File(path / f"{split}_data.hdf5", "w") as file:
            group = file.create_group("datasets")
            for name, images in classes.items():
                group.create_dataset(name, data=images)
        (path / f"{split}_labels.json").write_text(json.dumps(list(classes)))
    return expected


def phase_pickles(path: Path, train: str = "miniImageNet_category_split_train_phase_train") -> Expected:
    expected = colours({"train": ("0", "1"), "val": ("64", "65"), "test": ("80", "81")})
    stem = train.removesuffix("_train_phase_train").removesuffix("_train")
    for split, classes in expected.items():
        labels = [int(name) for name in classes for _ in range(EACH)]
        file = train if split == "train" else f"{stem}_{split}"
        put(path / f"{file}.pickle", pickle.dumps({"data": stacked(classes), "labels": labels}, 2))
    return expected


def png_pickles(path: Path, titles: bool = True) -> Expected:
    names = {"train": ("cat", "dog"), "val": ("cow", "hen"), "test": ("bee", "fly")}
    expected = colours(names)
    for split, classes in expected.items():
        files = [np.frombuffer(png(image), np.uint8) for image in stacked(classes)]
        labels: dict[str, object] = {"label_specific": np.repeat(np.arange(2), EACH)}
        if titles:
            labels["label_specific_str"] = list(classes)
        put(path / f"{split}_images_png.pkl", pickle.dumps(files, 2))
        put(path / f"{split}_labels.pkl", pickle.dumps(labels, 2))
    if titles:
        return expected
    return {s: {f"{s}/{i}": x for i, x in enumerate(classes.values())} for s, classes in expected.items()}


def omniglot(path: Path, zipped: bool = False, side: int = 105) -> Expected:
    """Drawings as published: paper is 255 and ink is 0, one bit a pixel."""
    random = np.random.default_rng(2)
    expected: Expected = {}
    for split, part in (("train", "images_background"), ("test", "images_evaluation")):
        classes: dict[str, NDArray[np.uint8]] = {}
        archive = ZipFile(path / f"{part}.zip", "w") if zipped else None
        for alphabet, character in (
            ("Greek", "character01"),
            ("Greek", "character02"),
            ("Latin", "character01"),
        ):
            ink = random.random((EACH, side, side, 1)) < 0.1
            classes[f"{split}-{alphabet}/{character}"] = (ink * 255).astype(np.uint8)
            for row, drawing in enumerate(ink):
                buffer = BytesIO()
                Image.fromarray(~drawing[..., 0]).save(buffer, "PNG")
                name = f"{part}/{split}-{alphabet}/{character}/{row:04}_01.png"
                if archive is None:
                    put(path / name, buffer.getvalue())
                else:
                    archive.writestr(name, buffer.getvalue())
        if archive is not None:
            archive.writestr(f"__MACOSX/{part}/Greek/character01/._0000_01.png", b"of a Mac")
            archive.close()
        expected[split] = classes
    return expected


def packed_omniglot(path: Path) -> Expected:
    """Six classes: Vinyals's table puts two into each split, Lake's three into each of two. Returns Vinyals's."""
    drawings = np.random.default_rng(3).integers(0, 2, (6, EACH, 5, 5), np.uint8)
    names = np.array([f"Greek/character{i:02}" for i in range(6)])
    vinyals = np.array([0, 1, 2, 0, 1, 2], np.uint8)
    np.savez_compressed(
        path,
        bits=np.packbits(drawings.reshape(6, EACH, -1), axis=-1),
        shape=np.array(drawings.shape),
        names=names,
        split_vinyals=vinyals,
        split_lake=np.array([0, 0, 0, 1, 1, 1], np.uint8),
    )
    return {
        split: {str(names[i]): drawings[i][..., None] for i in np.flatnonzero(vinyals == number)}
        for number, split in enumerate(("train", "val", "test"))
    }
