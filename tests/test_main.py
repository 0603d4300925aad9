from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from metafunc import __main__ as program
from metafunc.__main__ import main
from tests.data.formats import samples


def test_fine_data_ends_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples.csv_files(tmp_path)
    assert main(["data", "check", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path}: lists of images (csv)\nsplit     classes   images  per class\n")
    assert out.endswith("no problems\n")
    assert err == ""


def test_problems_end_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples.csv_files(tmp_path)
    (tmp_path / "images" / "n0100000000.png").unlink()
    assert main(["data", "check", str(tmp_path)]) == 1
    assert "csv rows without an image: 1\n" in capsys.readouterr().out


def test_a_size_is_taken(tmp_path: Path) -> None:
    samples.class_folders(tmp_path)
    samples.put(tmp_path / "val" / "n03" / "9.png", samples.png(samples.colours()["val"]["n03"][0][:5]))
    assert main(["data", "check", str(tmp_path)]) == 1
    assert main(["data", "check", str(tmp_path), "--size", "84"]) == 0


@pytest.mark.parametrize("name", ["", "missing"])
def test_what_is_not_recognised_ends_with_2(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{tmp_path / name}: expected ")


def test_a_missing_package_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples.hdf5_files(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "pip install 'metafunc[data]'" in capsys.readouterr().err


def test_download(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def get(folder: str) -> Path:
        asked.append(folder)
        return Path(folder)

    monkeypatch.setattr(program, "download_omniglot", get)
    assert main(["data", "download", "omniglot", str(tmp_path)]) == 0
    assert asked == [str(tmp_path)]
    assert (
        capsys.readouterr().out
        == f"{tmp_path}: complete. Look at it with `metafunc data check {tmp_path}`.\n"
    )


@pytest.mark.parametrize("error", [ConnectionError("no server"), ValueError("wrong file")])
def test_a_failed_download_ends_with_1(
    error: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: str) -> Path:
        raise error

    monkeypatch.setattr(program, "download_omniglot", fail)
    assert main(["data", "download", "omniglot", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{error}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["data"]),
        (["data", "--help"], ["check", "download"]),
        (["data", "check", "--help"], ["PATH", "--size N", "Ends with 0"]),
        (["data", "download", "--help"], ["omniglot", "FOLDER"]),
    ],
)
def test_help(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(word in out for word in words)


@pytest.mark.parametrize("arguments", [[], ["data"], ["data", "download", "imagenet", "x"]])
def test_a_wrong_command_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: metafunc")


def test_python_runs_the_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``python -m metafunc`` does."""
    monkeypatch.setattr(sys, "argv", ["metafunc", "data", "check", str(tmp_path / "missing")])
    monkeypatch.delitem(sys.modules, "metafunc.__main__")
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("metafunc", run_name="__main__", alter_sys=True)
    assert caught.value.code == 2
    assert (
        capsys.readouterr().err
        == f"{tmp_path}/missing: expected a folder or file of data, got nothing there. Check the path.\n"
    )
