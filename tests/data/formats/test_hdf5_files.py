from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from metafunc.data.formats import Hdf5Files
from metafunc.data.report import check
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
        f"{form.path}/train_data.hdf5 n99: expected an array of the class, which is in train_labels.json: uint8 [n, "
        "height, width, 1 or 3 channels], or [n] of PNG files, got none. Get both files again, from one place, or "
        "write them anew."
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


def fill(form: Hdf5Files, make: Callable[[h5py.Group], object]) -> Hdf5Files:
    """Makes the file of the split "val" anew."""
    with h5py.File(form.path / "val_data.hdf5", "w") as file:
        make(file.create_group("datasets"))
    (form.path / "val_labels.json").write_text('["n03"]')
    return form


IMAGES = np.arange(54, dtype=np.uint8).reshape(2, 3, 3, 3)
OUTSIDE = "outside.hdf5"


def virtual(group: h5py.Group) -> None:
    layout = h5py.VirtualLayout((2, 3, 3, 3), np.uint8)
    layout[:] = h5py.VirtualSource(OUTSIDE, "datasets/n03", (2, 3, 3, 3))
    group.create_virtual_dataset("n03", layout)


def raw(group: h5py.Group) -> None:
    group.create_dataset("n03", (2, 3, 3, 3), np.uint8, external=[("outside.bin", 0, 54)])


def through_a_link(group: h5py.Group) -> None:
    group["elsewhere"] = h5py.ExternalLink(OUTSIDE, "/datasets")
    group["n03"] = h5py.SoftLink("/datasets/elsewhere/n03")


WRONG: dict[str, tuple[Callable[[h5py.Group], object], str]] = {
    "floats": (lambda group: group.create_dataset("n03", data=IMAGES / 255), "float64 [2, 3, 3, 3]"),
    "signed bytes": (
        lambda group: group.create_dataset("n03", data=IMAGES.view(np.int8)),
        "int8 [2, 3, 3, 3]",
    ),
    "channels first": (
        lambda group: group.create_dataset("n03", data=np.zeros((2, 3, 8, 8), np.uint8)),
        "uint8 [2, 3, 8, 8]",
    ),
    "one image": (lambda group: group.create_dataset("n03", data=IMAGES[0]), "uint8 [3, 3, 3]"),
    "images of nothing": (
        lambda group: group.create_dataset("n03", data=np.zeros((2, 0, 3, 3), np.uint8)),
        "uint8 [2, 0, 3, 3]",
    ),
    "a scalar": (lambda group: group.create_dataset("n03", data=np.uint8(3)), "uint8 a scalar"),
    "no shape": (lambda group: group.create_dataset("n03", data=h5py.Empty("u1")), "uint8 no array"),
    "text": (lambda group: group.create_dataset("n03", data="a"), "object a scalar"),
    "a row of bytes": (lambda group: group.create_dataset("n03", data=IMAGES.ravel()), "uint8 [54]"),
    "arrays of floats": (
        lambda group: group.create_dataset("n03", (1,), h5py.vlen_dtype(np.float32)),
        "object [1]",
    ),
    "a group": (lambda group: group.create_group("n03"), "a Group"),
    "a type": (lambda group: group.__setitem__("n03", np.dtype("u1")), "a Datatype"),
    "a link to nothing": (
        lambda group: group.__setitem__("n03", h5py.SoftLink("/nothing")),
        "a link to another place",
    ),
    "a link into another file": (
        lambda group: group.__setitem__("n03", h5py.ExternalLink(OUTSIDE, "/datasets/n03")),
        "a link to another place",
    ),
    "a link through another file": (through_a_link, "a link to another place"),
    "a link to itself": (
        lambda group: group.__setitem__("n03", h5py.SoftLink("/datasets/n03")),
        "a link to another place",
    ),
    "bytes in another HDF5 file": (virtual, "an array whose bytes are in other files"),
    "bytes in a file of their own": (raw, "an array whose bytes are in other files"),
    "more than the file holds": (
        lambda group: group.create_dataset("n03", (10**9, 84, 84, 3), np.uint8, chunks=(1, 84, 84, 3)),
        "21168000000000 bytes, for which 0 are stored",
    ),
    "one part larger than the file": (
        lambda group: group.create_dataset(
            "n03", (1, 2, 2, 3), np.uint8, chunks=(1000, 100, 100, 3), maxshape=(None, None, None, 3)
        ),
        "30000000 bytes, for which 0 are stored",
    ),
    "a small file of zeros": (
        lambda group: group.create_dataset(
            "n03", data=np.zeros((8, 512, 512, 3), np.uint8), compression="gzip", chunks=(8, 512, 512, 3)
        ),
        "6291456 bytes, for which",
    ),
}


@pytest.mark.parametrize(("make", "got"), WRONG.values(), ids=WRONG)
def test_what_is_no_array_of_images_is_named_by_its_file_and_class(
    make: Callable[[h5py.Group], object], got: str, form: Hdf5Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(form.path)
    with h5py.File(form.path / OUTSIDE, "w") as file:
        file["datasets/n03"] = IMAGES
    (form.path / "outside.bin").write_bytes(IMAGES.tobytes())
    fill(form, make)
    text = (
        f"{form.path}/val_data.hdf5 n03: expected an array of the class, which is in val_labels.json: uint8 [n, height, "
        f"width, 1 or 3 channels], or [n] of PNG files, got {got}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        form.classes("val")
    assert check(form).problems["files that cannot be read"][0].startswith(text)


@pytest.mark.parametrize("options", [{}, {"chunks": True}, {"compression": "gzip"}, {"compression": "lzf"}])
def test_arrays_may_be_in_parts_and_compressed(options: dict[str, Any], form: Hdf5Files) -> None:
    random = np.random.default_rng(0).integers(0, 256, (4, 84, 84, 3), np.uint8)
    fill(form, lambda group: group.create_dataset("n03", data=random, **options))
    pictures = form.classes("val")["n03"]
    assert all(
        np.array_equal(picture.decode(), image) for picture, image in zip(pictures, random, strict=True)
    )


@pytest.mark.parametrize("name", ["../n03", "/datasets/n03", "n03/", "."])
def test_a_class_is_no_path(name: str, form: Hdf5Files) -> None:
    (form.path / "val_labels.json").write_text(json.dumps([name]))
    with pytest.raises(
        ValueError, match=re.escape(f"val_data.hdf5 {name}: expected an array") + ".*got none"
    ):
        form.classes("val")


def test_the_group_may_not_be_in_another_file(form: Hdf5Files) -> None:
    with h5py.File(form.path / "val_data.hdf5", "w") as file:
        file["datasets"] = h5py.ExternalLink("train_data.hdf5", "/datasets")
    (form.path / "val_labels.json").write_text('["n01"]')
    with pytest.raises(ValueError, match=r"with the group datasets, got a link to another place\."):
        form.classes("val")


def test_an_array_in_place_of_the_group(form: Hdf5Files) -> None:
    with h5py.File(form.path / "val_data.hdf5", "w") as file:
        file["datasets"] = IMAGES
    with pytest.raises(ValueError, match=r"with the group datasets, got a Dataset of that name\."):
        form.classes("val")


def test_a_broken_part_is_named_by_its_row(form: Hdf5Files) -> None:
    random = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    fill(form, lambda group: group.create_dataset("n03", data=random, chunks=(1, 8, 8, 3), fletcher32=True))
    file = form.path / "val_data.hdf5"
    place = file.read_bytes().index(random[1].tobytes())
    with file.open("r+b") as stream:
        stream.seek(place + 5)
        stream.write(bytes([255 - random[1].tobytes()[5]]))
    whole, broken = form.classes("val")["n03"]
    assert np.array_equal(whole.decode(), random[0])
    with pytest.raises(
        ValueError, match=r"val_data\.hdf5 n03 row 1: expected an image that can be read, got "
    ):
        broken.decode()
    (line,) = check(form).problems["images that cannot be decoded"]
    assert "n03 row 1" in line


@pytest.mark.parametrize(
    ("labels", "got"), [("[" * 100_000, "recursion"), ('["n03", 1]', "a int"), ("[[]]", "a list")]
)
def test_names_of_classes_that_are_none(labels: str, got: str, form: Hdf5Files) -> None:
    (form.path / "val_labels.json").write_text(labels)
    with pytest.raises(ValueError, match=f"val_labels.json: expected the .* of the classes, got .*{got}"):
        form.classes("val")
