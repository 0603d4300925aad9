"""What can be wrong with the forms that are pickles."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metafunc.data.formats import CachePickles, Form, PhasePickles, PngPickles
from tests.data.formats import samples

IMAGES = np.zeros((4, 2, 2, 3), np.uint8)
ROWS = {"n01": [0, 1], "n02": [2, 3]}


def cache(path: Path, **contents: Any) -> Form:
    samples.put(path / "mini-imagenet-cache-train.pkl", pickle.dumps(contents))
    return CachePickles(path)


def phase(path: Path, **contents: Any) -> Form:
    samples.put(path / "FC100_train.pickle", pickle.dumps(contents))
    return PhasePickles(path)


def png(path: Path, images: Any, **labels: Any) -> Form:
    samples.put(path / "train_images_png.pkl", pickle.dumps(images))
    if labels:
        samples.put(path / "train_labels.pkl", pickle.dumps(labels))
    return PngPickles(path)


CACHE, PHASE, PNG = "mini-imagenet-cache-train.pkl", "FC100_train.pickle", "train_images_png.pkl"
LABELS = "train_labels.pkl"
WRONG: dict[str, tuple[Callable[[Path], Form], str]] = {
    "no images": (
        lambda path: cache(path, class_dict=ROWS),
        f"{CACHE}: expected a dict with 'image_data', got 'class_dict'. Get the file again, or rename its entry.",
    ),
    "floats": (
        lambda path: cache(path, image_data=IMAGES / 255, class_dict=ROWS),
        (
            f"{CACHE}: expected images as an array, uint8 [n, height, width, 1 or 3 channels], got float64 [4, 2, 2, 3]. "
            "Write the file anew with bytes, channels last."
        ),
    ),
    "a list": (
        lambda path: phase(path, data=[1, 2], labels=[0, 1]),
        (
            f"{PHASE}: expected images as an array, uint8 [n, height, width, 1 or 3 channels], got a list. "
            "Write the file anew with bytes, channels last."
        ),
    ),
    "channels first": (
        lambda path: phase(path, data=np.zeros((4, 3, 8, 8), np.uint8), labels=[0, 1, 2, 3]),
        (
            f"{PHASE}: expected images as an array, uint8 [n, height, width, 1 or 3 channels], got uint8 [4, 3, 8, 8]. "
            "Write the file anew with bytes, channels last."
        ),
    ),
    "a number for images": (
        lambda path: cache(path, image_data=3, class_dict=ROWS),
        (
            f"{CACHE}: expected images as an array, uint8 [n, height, width, 1 or 3 channels], got a int. "
            "Write the file anew with bytes, channels last."
        ),
    ),
    "a number for classes": (
        lambda path: cache(path, image_data=IMAGES, class_dict=3),
        f"{CACHE}: expected class_dict as a dict, got a int. Get the file again.",
    ),
    "a number for rows": (
        lambda path: cache(path, image_data=IMAGES, class_dict={"n01": 3}),
        f"{CACHE}: expected the rows of n01 as a list, got a int. Get the file again.",
    ),
    "text for a row": (
        lambda path: cache(path, image_data=IMAGES, class_dict={"n01": ["a"]}),
        f"{CACHE}: expected the rows of n01 as whole numbers, got a str. Get the file again.",
    ),
    "a fraction for a row": (
        lambda path: cache(path, image_data=IMAGES, class_dict={"n01": np.array([0.5])}),
        f"{CACHE}: expected the rows of n01 as whole numbers, got a float. Get the file again.",
    ),
    "nothing for a class": (
        lambda path: cache(path, image_data=IMAGES, class_dict={None: [0]}),
        f"{CACHE}: expected the classes as text or as whole numbers, got a NoneType. Get the file again.",
    ),
    "a number for labels": (
        lambda path: phase(path, data=IMAGES, labels=3),
        f"{PHASE}: expected labels as a list, got a int. Get the file again.",
    ),
    "a table of labels": (
        lambda path: phase(path, data=IMAGES, labels=np.zeros((4, 1), int)),
        f"{PHASE}: expected labels as a list, got int64 [4, 1]. Get the file again.",
    ),
    "a list for a label": (
        lambda path: phase(path, data=IMAGES, labels=[[0], 0, 0, 0]),
        f"{PHASE}: expected labels as text or as whole numbers, got a list. Get the file again.",
    ),
    "text for an integer": (
        lambda path: png(path, [b"a"], label_specific=["a"]),
        f"{LABELS}: expected label_specific as whole numbers, got a str. Get the file again.",
    ),
    "a number for names": (
        lambda path: png(path, [b"a"], label_specific=[0], label_specific_str=3),
        f"{LABELS}: expected label_specific_str as a list, got a int. Get the file again.",
    ),
    "an array for a list of images": (
        lambda path: png(path, np.zeros((1, 9), np.uint8), label_specific=[0]),
        f"{PNG}: expected a list of PNG files, got uint8 [1, 9]. Get the file again.",
    ),
    "a row in two classes": (
        lambda path: cache(path, image_data=IMAGES, class_dict={"n01": [0, 1, 2], "n02": [2, 3]}),
        (
            f"{CACHE}: expected every row from 0 to 3 in one class of class_dict, "
            "got row 2 of n02, which is outside or in another class too. Get the file again."
        ),
    ),
    "a row outside": (
        lambda path: cache(path, image_data=IMAGES, class_dict={"n01": [0, 1], "n02": [2, 4]}),
        (
            f"{CACHE}: expected every row from 0 to 3 in one class of class_dict, "
            "got row 4 of n02, which is outside or in another class too. Get the file again."
        ),
    ),
    "a row without a class": (
        lambda path: cache(path, image_data=IMAGES, class_dict={"n01": [0, 1], "n02": [3]}),
        f"{CACHE}: expected a class for every row in class_dict, got none for row 2. Get the file again.",
    ),
    "too few labels": (
        lambda path: phase(path, data=IMAGES, labels=[0, 0, 1]),
        f"{PHASE}: expected one label for each of the 4 images, got 3. Get the file again, or write it anew.",
    ),
    "no labels beside the images": (
        lambda path: png(path, [b"a"]),
        f"{LABELS}: expected the labels of the images beside them, got no such file. Get it too.",
    ),
    "fewer images than labels": (
        lambda path: png(path, [b"a"], label_specific=[0, 1]),
        (
            f"{PNG}: expected one image for each of the 2 labels in {LABELS}, got 1. "
            "Get both files again, from one place."
        ),
    ),
    "no list of images": (
        lambda path: png(path, {"a": 1}, label_specific=[0]),
        f"{PNG}: expected a list of PNG files, got a dict. Get the file again.",
    ),
    "a label without a name": (
        lambda path: png(path, [b"a", b"b"], label_specific=[0, 2], label_specific_str=["cat", "dog"]),
        f"{LABELS}: expected label_specific from 0 to 1, for there are so many names, got 0 to 2. Get the file again.",
    ),
}


@pytest.mark.parametrize(("make", "text"), WRONG.values(), ids=WRONG)
def test_a_file_that_is_wrong_is_named(make: Callable[[Path], Form], text: str, tmp_path: Path) -> None:
    form = make(tmp_path)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{tmp_path}/{text}')}$"):
        form.classes("train")


def test_of_two_spellings_of_the_second_split_val_is_taken(tmp_path: Path) -> None:
    for name in ("train", "validation", "val"):
        samples.put(tmp_path / f"mini-imagenet-cache-{name}.pkl", b"")
    assert [file.stem.rpartition("-")[2] for file in CachePickles(tmp_path).files()] == ["train", "val"]


def test_phases_other_than_training_are_left_out(tmp_path: Path) -> None:
    for name in ("train_phase_train", "train_phase_val", "train_phase_test", "val", "test"):
        samples.put(tmp_path / f"miniImageNet_category_split_{name}.pickle", b"")
    form = PhasePickles(tmp_path)
    assert form.splits == ("train", "val", "test")
    stems = [file.stem.removeprefix("miniImageNet_category_split_") for file in form.files()]
    assert stems == ["train_phase_train", "val", "test"]


def test_two_data_sets_in_one_folder(tmp_path: Path) -> None:
    for name in ("FC100_train", "CIFAR_FS_train"):
        samples.put(tmp_path / f"{name}.pickle", b"")
    form = PhasePickles.find(tmp_path)
    assert form is not None
    text = (
        f"{tmp_path}: expected the files of one data set, got those of CIFAR_FS and FC100. "
        "Give each data set a folder of its own."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        _ = form.splits


def test_other_pickles_are_no_data(tmp_path: Path) -> None:
    samples.put(tmp_path / "notes.pickle", b"")
    assert PhasePickles.find(tmp_path) is None


@pytest.mark.parametrize(
    "kind", [bytes, lambda data: data.decode("latin1"), lambda data: np.frombuffer(data, np.uint8)]
)
def test_a_png_file_may_be_bytes_text_or_an_array(kind: Callable[[bytes], Any], tmp_path: Path) -> None:
    image = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    form = png(tmp_path, [kind(samples.png(image))], label_specific=[0])
    (picture,) = form.classes("train")["train/0"]
    assert np.array_equal(picture.decode(), image)


@pytest.mark.parametrize(
    ("image", "got"),
    [(3, "a int"), (np.zeros(9), r"float64 \[9\]"), ([b"a"], "a list"), (None, "a NoneType")],
)
def test_what_is_no_png_file_is_named_by_its_row(image: object, got: str, tmp_path: Path) -> None:
    (picture,) = png(tmp_path, [image], label_specific=[0]).classes("train")["train/0"]
    text = rf"train_images_png\.pkl row 0: expected the bytes of a PNG file, got {got}\."
    with pytest.raises(ValueError, match=text):
        picture.decode()


def test_another_format_in_place_of_a_png_file(tmp_path: Path) -> None:
    buffer = BytesIO()
    Image.new("RGB", (3, 3)).save(buffer, "JPEG")
    (picture,) = png(tmp_path, [buffer.getvalue()], label_specific=[0]).classes("train")["train/0"]
    with pytest.raises(ValueError, match=r"row 0: expected an image that can be decoded, got no PNG file\."):
        picture.decode()


def test_labels_that_share_their_parts_without_end(tmp_path: Path) -> None:
    label: list[Any] = ["ha"]
    for _ in range(60):
        label = [label, label]
    with pytest.raises(ValueError, match="expected labels as text or as whole numbers, got a list"):
        phase(tmp_path, data=IMAGES, labels=label * 2).classes("train")


def test_a_broken_png_file_is_named_by_its_row(tmp_path: Path) -> None:
    whole = samples.png(np.arange(27, dtype=np.uint8).reshape(3, 3, 3))
    form = png(tmp_path, [whole, whole[:40]], label_specific=[0, 0])
    with pytest.raises(
        ValueError, match=r"train_images_png\.pkl row 1: expected an image that can be decoded, got "
    ):
        form.classes("train")["train/0"][1].decode()
