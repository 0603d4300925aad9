"""Honest pickles are read, hostile ones run nothing."""

from __future__ import annotations

import os
import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metafunc.data.formats.unpickle import entry, load

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def written(folder: Path, data: bytes) -> Path:
    file = folder / "contents.pkl"
    file.write_bytes(data)
    return file


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
        )
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


HONEST = {
    "bytes": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "by columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "by other axes": np.arange(24, dtype=np.uint8).reshape(2, 3, 4).transpose(1, 0, 2),
    "big-endian": np.arange(3, dtype=">i8"),
    "empty": np.zeros((0, 3), np.uint8),
    "no axis": np.array(5),
    "every dtype": [np.arange(2).astype(code) for code in "?bhilBHILefd"],
    "many axes": np.zeros((1,) * 32, np.uint8),
    "scalars": [np.int64(3), np.float32(0.5), np.bool_(True)],
    "one array twice": [np.arange(3, dtype=np.uint8)] * 2,
    "containers": {
        "a": (1, 2.5, None, True),
        "b": {"c": [b"\x00\xff", b"", ()]},
        b"d": [[], {}, ((1,), 2, 3, 4)],
    },
    "numbers": [0, -1, 255, 256, 65_536, -(2**31), 2**31, 2**63, -(2**200), 1e300, float("inf"), False],
    "strings": ["", "a" * 255, "b" * 256, "\x00\n\\'\"\xe9\u20ac\U0001f600", b"\x00\n" * 200],
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("contents", HONEST.values(), ids=HONEST)
def test_arrays_and_containers_are_read(contents: Any, protocol: int, tmp_path: Path) -> None:
    found = load(written(tmp_path, pickle.dumps(contents, protocol)))
    assert same(found, contents)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_items_of_a_dict_may_have_an_order(protocol: int, tmp_path: Path) -> None:
    contents = OrderedDict(b=1, a=OrderedDict(d=2, c=3))
    found = load(written(tmp_path, pickle.dumps(contents, protocol)))
    assert found == {"b": 1, "a": {"d": 2, "c": 3}}
    assert [*found, *found["a"]] == ["b", "a", "d", "c"]


def test_python_2_wrote_an_ordered_dict_as_pairs(tmp_path: Path) -> None:
    data = b"\x80\x02ccollections\nOrderedDict\nq\x01]q\x02(]q\x03(U\x01bK\x01e]q\x04(U\x01aK\x02ee\x85q\x05Rq\x06."
    assert list(load(written(tmp_path, data)).items()) == [("b", 1), ("a", 2)]


@pytest.mark.parametrize("protocol", [0, 2])
def test_numpy_1_called_its_core_by_another_name(protocol: int, tmp_path: Path) -> None:
    contents = [np.arange(5, dtype=np.uint8), np.int64(7)]
    data = pickle.dumps(contents, protocol)
    assert data.count(b"numpy._core.") == 2
    assert same(load(written(tmp_path, data.replace(b"numpy._core.", b"numpy.core."))), contents)


def test_python_2_wrote_text_and_bytes_alike(tmp_path: Path) -> None:
    # What Python 2.7 with numpy 1.16 writes for {'data': np.array([1, 255], np.uint8), 'png': '\x89P'}, protocol 2.
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x02\x01\xfftb"
    )
    data = b"\x80\x02}(U\x04data" + array + b"U\x03pngU\x02\x89Pu."
    found = load(written(tmp_path, data))
    assert same(found, {"data": np.array([1, 255], np.uint8), "png": "\x89P"})
    assert found["png"].encode("latin1") == b"\x89P"


def test_python_2_wrote_in_text(tmp_path: Path) -> None:
    # What it writes for {'data': np.array([[1, 255]], '<i2'), 'n': [3L, True, 0.5, None], u'\xe9': 'a\n'}, protocol 0.
    data = (
        b"(dp0\nS'data'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\n"
        b"tp6\nRp7\n(I1\n(I1\nI2\ntp8\ncnumpy\ndtype\np9\n(S'i2'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'<'\np13\nNNNI-1\n"
        b"I-1\nI0\ntp14\nbI00\nS'\\x01\\x00\\xff\\x00'\np15\ntp16\nbsS'n'\np17\n(lp18\nL3L\naI01\naF0.5\naNasV\xe9\n"
        b"p19\nS'a\\n'\np20\ns."
    )
    found = load(written(tmp_path, data))
    expected = {"data": np.array([[1, 255]], np.int16), "n": [3, True, 0.5, None], "\xe9": "a\n"}
    assert same(found, expected)


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.lists(st.integers(0, 255), max_size=6).map(lambda xs: np.array(xs, np.uint8)),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=5), inner, max_size=4),
        st.tuples(inner, inner),
    ),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(contents=TREES, protocol=st.sampled_from(PROTOCOLS))
def test_whatever_is_plain_comes_back(
    contents: Any, protocol: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    assert same(load(written(folder, pickle.dumps(contents, protocol))), contents)


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Opens(Calls):
    """Pickles as an instance made with a state."""

    def __reduce__(self) -> Any:
        return (*self.call, {"spoilt": 1})


def named(module: str, name: str, argument: str) -> bytes:
    """`module.name(argument)` by the operation of protocol 4, whose names may have dots."""

    def short(text: str) -> bytes:
        return b"\x8c" + bytes([len(text)]) + text.encode()

    long = b"X" + struct.pack("<I", len(argument)) + argument.encode()
    return b"\x80\x04" + short(module) + short(name) + b"\x93" + long + b"\x85R."


def hostile(canary: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that make a file when they are trusted, and the name that the refusal has to give."""
    command, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    system = Calls(os.system, command)
    return {
        "os.system": (pickle.dumps(system), "posix.system"),
        "protocol 0": (pickle.dumps(system, 0), "posix.system"),
        "eval": (pickle.dumps(Calls(eval, code)), "builtins.eval"),
        "exec of Python 2": (f"c__builtin__\nexec\n(V{code}\ntR.".encode(), "__builtin__.exec"),
        "deep in a dict": (
            pickle.dumps({"image_data": np.zeros(3), "class_dict": {"n01": [system]}}),
            "posix.system",
        ),
        "in an array of objects": (pickle.dumps(np.array([system, 1], object)), "the dtype 'O8'"),
        "after an honest entry": (pickle.dumps([1, 2, {"a": (b"x", system)}], 2), "posix.system"),
        "getattr": (pickle.dumps(Calls(getattr, 1, "real")), "builtins.getattr"),
        "import": (pickle.dumps(Calls(__import__, "os")), "builtins.__import__"),
        "dots in the name": (
            named("numpy", "f2py.os.system", command),
            "numpy.f2py.os.system",
        ),
        "dots behind a known name": (
            named("numpy.core.multiarray", "_reconstruct.__globals__", command),
            "numpy.core.multiarray._reconstruct.__globals__",
        ),
        "dots behind a known class": (
            named("builtins", "dict.__class__", command),
            "builtins.dict.__class__",
        ),
        "numpy's own loader": (named("numpy", "load", command), "numpy.load"),
        "copyreg": (
            b"\x80\x02ccopyreg\n_reconstructor\nc__main__\nA\ncbuiltins\nobject\nN\x87R.",
            "copyreg._reconstructor",
        ),
        "copy_reg of Python 2": (b"ccopy_reg\nadd_extension\n(V1\ntR.", "copy_reg.add_extension"),
        "INST": (f"(V{command}\nios\nsystem\n.".encode(), "the operation INST"),
        "a class to be given a state": (pickle.dumps(Opens(os.system, command)), "posix.system"),
        "a call of ndarray": (b"cnumpy\nndarray\n((I1\ntVO\ntR.", "a call of numpy.ndarray"),
        "a new ndarray": (b"\x80\x02cnumpy\nndarray\n(K\x01t\x81.", "the operation NEWOBJ"),
        "a codec": (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "the codec 'rot13'"),
        "a dtype with fields": (b"cnumpy\ndtype\n(VV8\ntR.", "the dtype 'V8'"),
        "a scalar of objects": (
            b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(VO8\ntRVx\ntR.",
            "the dtype 'O8'",
        ),
        "an array of objects": (pickle.dumps(np.array([b"png", [1]], object)), "the dtype 'O8'"),
        "an array of text": (pickle.dumps(np.array(["a", "bc"])), "the dtype 'U2'"),
        "an array of dates": (pickle.dumps(np.array(["2020"], "M8[Y]")), "the dtype 'M8'"),
        "an array of fields": (pickle.dumps(np.zeros(2, "i8,O")), "the dtype 'V16'"),
        "a matrix": (pickle.dumps(np.array([[1]]).view(np.matrix)), "numpy.matrix"),
        "a set": (pickle.dumps({1, 2}), "the operation EMPTY_SET"),
        "an outside object": (b"Vhttp://somewhere\nQ.", "the operation BINPERSID"),
        "an extension": (b"\x80\x02\x82\x01.", "the operation EXT1"),
        "a buffer from outside": (b"\x80\x05\x97.", "the operation NEXT_BUFFER"),
    }


NAMES = list(hostile(Path("canary")))
RUNS = [name for name in NAMES if name in ("os.system", "protocol 0", "eval", "deep in a dict", "INST")]


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_pickle_runs_nothing(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    data, asked = hostile(canary)[name]
    file = written(tmp_path, data)
    text = (
        f"{file}: expected a pickle of numpy arrays, numbers, strings, lists and dicts alone, got one that asks for "
        f"{asked}. Do not unpickle this file by other means either, unless you trust its source."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        load(file)
    assert not canary.exists()


@pytest.mark.parametrize("name", RUNS)
def test_the_hostile_pickles_are_hostile(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(hostile(canary)[name][0])
    assert canary.exists()


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps(list(range(99)))[:-20], b"\x80\x04R."])
def test_what_is_no_whole_pickle_is_refused_by_its_name(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"contents\.pkl: expected a whole pickle, got .+\. Get the file again\.$"
    ):
        load(written(tmp_path, data))


def test_an_entry_may_have_a_key_of_bytes() -> None:
    assert (
        entry({b"labels": [1]}, "labels", Path("a.pkl"))
        == entry({"labels": [1]}, "labels", Path("a.pkl"))
        == [1]
    )


@pytest.mark.parametrize(
    ("contents", "text"),
    [
        ([1], "a.pkl: expected a dict with 'labels', got a list. Get the file again."),
        (
            {"b": 1, b"c": 2},
            "a.pkl: expected a dict with 'labels', got 'b', 'c'. Get the file again, or rename its entry.",
        ),
        (
            {},
            "a.pkl: expected a dict with 'labels', got an empty one. Get the file again, or rename its entry.",
        ),
    ],
)
def test_a_missing_entry_is_named(contents: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        entry(contents, "labels", Path("a.pkl"))
