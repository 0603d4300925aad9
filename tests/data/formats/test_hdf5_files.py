from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from metafunc.data.formats import Hdf5Files
from tests.data.formats import samples


@pytest.fixture
def form(tmp_path: Path) -> Hdf5Files:
    samples.hdf5_files(tmp_path)
    return Hdf5Files(tmp_path)


def test_images_may_be_png_files(tmp_path: Path) -> None:
    image = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    with h5py.File(tmp_path / "train_data.hdf5", "w") as file:
        files = file.create_group("datasets").create_dataset("n01", (1,), h5py.vlen_dtype(np.uint8))
        files[0] = np.frombuffer(samples.png(image), np.uint8)
    (tmp_path / "train_labels.json").write_text('["n01"]')
    (picture,) = Hdf5Files(tmp_path).classes("train")["n01"]
    assert np.array_equal(picture.decode(), image)


def test_a_class_that_is_listed_but_not_there(form: Hdf5Files) -> None:
    (form.path / "train_labels.json").write_text(json.dumps(["n01", "n99"]))
    text = (
        f"{form.path}/train_data.hdf5: expected an array for n99, which is in train_labels.json, got none. "
        "Get both files again, from one place."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        form.classes("train")


@pytest.mark.parametrize(
    ("labels", "got"), [(None, "No such file"), ("[", "Expecting value"), ("{}", "a dict")]
)
def test_no_list_of_classes(labels: str | None, got: str, form: Hdf5Files) -> None:
    file = form.path / "val_labels.json"
    file.unlink() if labels is None else file.write_text(labels)
    with pytest.raises(ValueError, match=f"val_labels.json: expected the list of the classes, got .*{got}"):
        form.classes("val")


@pytest.mark.parametrize("whole", [False, True])
def test_no_hdf5_file(whole: bool, form: Hdf5Files) -> None:
    file = form.path / "val_data.hdf5"
    if whole:
        h5py.File(file, "w").close()
    else:
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(
        ValueError, match=r"val_data\.hdf5: expected an HDF5 file with the group datasets, got "
    ):
        form.classes("val")


def test_images_of_floats(form: Hdf5Files) -> None:
    with h5py.File(form.path / "val_data.hdf5", "w") as file:
        file.create_group("datasets").create_dataset("n03", data=np.zeros((2, 3, 3, 3)))
    (form.path / "val_labels.json").write_text('["n03"]')
    text = (
        f"{form.path}/val_data.hdf5 n03 row 0: expected an image, uint8 [height, width, channels], or a PNG file, "
        "uint8 [bytes], got float64 [3, 3, 3]. Write the file anew with bytes, channels last."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        form.classes("val")["n03"][0].decode()
