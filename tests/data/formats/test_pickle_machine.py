"""Pickles that are made to crash, to change or to exhaust the one who reads them."""

from __future__ import annotations

import re
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metafunc.data.formats import pickle_machine
from metafunc.data.formats.pickle_machine import Machine
from metafunc.data.formats.pickle_stream import BrokenPickleError
from metafunc.data.formats.unpickle import load


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def u8(code: bytes = b"i8") -> bytes:
    """A dtype, with its state."""
    return named("numpy", "dtype") + b"(U" + bytes([len(code)]) + code + b"\x89\x88tR(K\x03U\x01<NNNJ" + LAST


LAST = b"\xff" * 4 + b"J" + b"\xff" * 4 + b"K\x00tb"
BEGUN = (
    named("numpy.core.multiarray", "_reconstruct") + b"(" + named("numpy", "ndarray") + b"K\x00\x85U\x01btR"
)
BUFFER = named("numpy.core.numeric", "_frombuffer")
HUGE = b"\x8a\x09" + b"\x00" * 8 + b"\x01"
"""The number 2 ** 64."""


def array(shape: bytes, data: bytes, dtype: bytes | None = None) -> bytes:
    return BEGUN + b"(K\x01" + shape + (dtype or u8()) + b"\x89U" + bytes([len(data)]) + data + b"tb"


UNKNOWN: dict[str, tuple[bytes, str]] = {
    "a dtype changed in place": (u8() + b"q\x010h\x01(K\x03U\x01|NU\x01f\x85}tb.", "the operation POP"),
    "a dtype changed when it is complete": (
        u8() + b"(K\x03U\x01|NU\x01f\x85}U\x01fK\x08sJ" + LAST + b".",
        "a state for a Int64DType",
    ),
    "a dtype with fields in its state": (
        named("numpy", "dtype") + b"(U\x02i8\x89\x88tR(K\x03U\x01|NU\x01f\x85}K\x10K\x01K\x3ftb.",
        "a dtype that is no plain number",
    ),
    "a dtype with a base in its state": (
        named("numpy", "dtype") + b"(U\x02i8\x89\x88tR(K\x03U\x01|U\x01xNNJ" + LAST + b".",
        "a dtype that is no plain number",
    ),
    "an array changed when it is complete": (
        array(b"K\x01\x85", bytes(8)) + b"(K\x01K\x02\x85" + u8() + b"\x89U\x08" + bytes(8) + b"tb.",
        "a state for a ndarray",
    ),
    "attributes of a function": (
        named("_codecs", "encode") + b"N}U\x0c__defaults__U\x01x\x85s\x86b.",
        "a state for a Name",
    ),
    "attributes of a dict": (b"}}U\x01aK\x01sb.", "a state for a dict"),
    "attributes of an ordered dict": (
        named("collections", "OrderedDict") + b")R}U\x01aK\x01sb.",
        "a state for a dict",
    ),
    "an array that is used before it is complete": (BEGUN + b"q\x01h\x01.", "an array before it is complete"),
    "an array that never is": (BEGUN + b".", "a Pending in a container"),
    "an array in a list too early": (b"](" + BEGUN + b"e.", "a Pending in a container"),
    "an array in a dict too early": (b"}K\x01" + BEGUN + b"s.", "a Pending in a container"),
    "an array in a tuple too early": (BEGUN + b"\x85.", "an array in a tuple before it is complete"),
    "an array of another kind": (
        named("numpy.core.multiarray", "_reconstruct") + b"(" + named("numpy", "dtype") + b"K\x00\x85U\x01btR.",
        "an array made in an unknown way",
    ),
    "a name as data": (named("numpy", "ndarray") + b".", "numpy.ndarray in a container"),
    "a name in a list": (b"](" + named("numpy", "dtype") + b"e.", "numpy.dtype in a container"),
    "bytes of a size": (named("builtins", "bytes") + b"(J\xff\xff\xff\x7ftR.", "a call of bytes with an argument"),
    "more bytes of a size": (named("builtins", "bytearray") + b"(J\xff\xff\xff\x7ftR.", "builtins.bytearray"),
    "a call of the class of arrays": (
        named("numpy", "ndarray") + b"(J\xff\xff\xff\x7f\x85tR.",
        "a call of numpy.ndarray",
    ),
    "a name that is a key": (b"}" + named("numpy", "dtype") + b"Ns.", "numpy.dtype as the key of a dict"),
    "a key of tuples that share their parts": (b"}" + b")" + b"q\x01h\x01\x86" * 60 + b"Ns.", "a tuple as the key"),
    "such a key, in an ordered dict": (
        named("collections", "OrderedDict") + b"(](](" + b")" + b"q\x01h\x01\x86" * 60 + b"NeetR.",
        "a tuple as the key",
    ),
    "a codec that shares its parts": (
        named("_codecs", "encode") + b"(X\x01\x00\x00\x00a" + b")" + b"q\x01h\x01\x86" * 60 + b"tR.",
        "the codec a tuple",
    ),
    "a dtype that shares its parts": (
        named("numpy", "dtype") + b"(" + b")" + b"q\x01h\x01\x86" * 60 + b"tR.",
        "the dtype a tuple",
    ),
    "a dtype's name of great length": (named("numpy", "dtype") + b"(U\xff" + b"x" * 255 + b"tR.", "the dtype 'xxx"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "asked"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_no_data_needs_is_refused(data: bytes, asked: str, tmp_path: Path) -> None:
    file = tmp_path / "a.pkl"
    file.write_bytes(b"\x80\x02" + data)
    text = (
        f"{file}: expected a pickle of numpy arrays, numbers, strings, lists and dicts alone, got one that asks for "
        f"{asked}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        load(file)


BROKEN: dict[str, tuple[bytes, str]] = {
    "bytes": (b"B\xff\xff\xff\xff", "an end where 4294967295 more bytes should be"),
    "bytes beyond all memory": (b"\x8e" + b"\xff" * 8, "an end where 18446744073709551615 more bytes should be"),
    "a bytearray": (b"\x96" + b"\x00" * 7 + b"\x40.", "an end where 4611686018427387904 more bytes should be"),
    "text": (b"X\xff\xff\xff\x7f", "an end where 2147483647 more bytes should be"),
    "long text": (b"\x8d" + b"\x00" * 4 + b"\x01" + b"\x00" * 3, "an end where 4294967296 more bytes should be"),
    "text of Python 2": (b"T\xff\xff\xff\x7f", "an end where 2147483647 more bytes should be"),
    "text of negative length": (b"T\xff\xff\xff\xff", "an end where -1 more bytes should be"),
    "a number": (b"\x8a\xff\x01", "an end where 255 more bytes should be"),
    "a frame": (b"\x95" + b"\xff" * 8, "an end where 18446744073709551615 more bytes should be"),
    "a protocol": (b"\x80\xc8", "protocol 200"),
    "an array of too few bytes": (
        array(b"M\xff\xff\x85", b"ab", u8(b"u1")),
        "2 bytes for an array uint8 [65535], which takes 65535",
    ),
    "an array of too many": (array(b"K\x01\x85", b"ab", u8(b"u1")), "2 bytes for an array uint8 [1], which takes 1"),
    "an array beyond all memory": (
        array(b"(" + HUGE * 3 + b"t", b""),
        f"0 bytes for an array int64 [{2**64}, {2**64}, {2**64}], which takes {2**192 * 8}",
    ),
    "an array of nothing, beyond all memory": (array(b"(K\x00" + HUGE + b"t", b""), "an operation that cannot be done"),
    "sides below zero": (array(b"(J\xff\xff\xff\xffJ\xff\xff\xff\xfft", bytes(8)), "an array whose shape is no tuple"),
    "sides that are none": (array(b"(\x88t", bytes(8)), "an array whose shape is no tuple"),
    "a shape that is none": (array(b"K\x01", bytes(8)), "an array whose shape is no tuple"),
    "more axes than there are": (array(b"(" + b"K\x01" * 33 + b"t", bytes(8)), "an array whose shape is no tuple"),
    "a shape that takes for ever to multiply": (
        array(b"(" + (b"\x8a\xff" + b"\x7f" * 255) * 10_000 + b"t", b""),
        "an array whose shape is no tuple",
    ),
    "a dtype that is none": (array(b"K\x01\x85", bytes(8), b"N"), "an array with a NoneType for a dtype"),
    "a dtype without a state": (
        array(b"K\x01\x85", bytes(8), named("numpy", "dtype") + b"(U\x02i8\x89\x88tR"),
        "",
    ),
    "an unknown order of bytes": (
        named("numpy", "dtype") + b"(U\x02i8\x89\x88tR(K\x03U\x01xNNNJ" + LAST,
        "a dtype whose bytes have no known order",
    ),
    "bytes that are a list": (
        BEGUN + b"(K\x01K\x00\x85" + u8() + b"\x89]tb",
        "an array whose bytes are a list",
    ),
    "axes that are none": (
        BUFFER + b"(C\x01a" + u8(b"u1") + b"K\x01\x85U\x01KK\x05\x85tR",
        "an operation that cannot be done",
    ),
    "a number of very many digits": (b"L" + b"9" * 100_000 + b"L\n", "a number of more than 700 digits"),
    "a whole number in text that is none": (b"Ix\n", "an operation that cannot be done (ValueError"),
    "a string without its quotes": (b"S'abc\n", "a string without quotes"),
    "half a character": (b"X\x03\x00\x00\x00\xed\xa0\x80", "an operation that cannot be done (UnicodeDecodeError"),
    "half a character in text": (b"V\\ud800\n", "an operation that cannot be done (UnicodeEncodeError"),
    "a name of lists": (b"]]\x93", "a name that is no text"),
    "a call of a list": (b"])R", "a call of what is no name"),
    "a call with a list": (named("collections", "OrderedDict") + b"]R", "a call of what is no name"),
    "items for a number": (b"K\x01K\x02a", "a list's items for a int"),
    "items for a list": (b"]K\x01K\x02s", "a dict's items for a list"),
    "a key without a value": (b"}(K\x01u", "an operation that cannot be done (ValueError"),
    "what was never kept": (b"h\x07", "an operation that cannot be done (KeyError: 7)"),
    "nothing to put in": (b"a", "an operation that cannot be done (IndexError"),
    "a mark that was never set": (b"t", "an operation that cannot be done (IndexError"),
    "marks alone": (b"(" * 100_000, "an operation that cannot be done (IndexError"),
    "no operation": (b"\xff", "the byte 255 where an operation should be"),
    "an end in a line": (b"cnumpy\ndty", "an end in the middle of a line"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "got"), BROKEN.values(), ids=BROKEN)
def test_what_is_not_as_it_says_is_refused_before_it_takes_memory(
    data: bytes, got: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.pkl"
    file.write_bytes(b"\x80\x02" + data + (b"" if b"an end" in got.encode() else b"."))
    tracemalloc.start()
    try:
        with pytest.raises(
            ValueError, match=re.escape(f"{file}: expected a ") + ".*" + re.escape(f"got {got}")
        ):
            load(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 24


def read(data: bytes) -> Any:
    return Machine(BytesIO(data), len(data)).run()


@pytest.mark.parametrize(
    "before", [b"", b"N", b"NN", b"(", b"]", b"}", b"(N", named("numpy", "dtype"), BEGUN]
)
def test_every_operation_anywhere_comes_to_an_end(before: bytes) -> None:
    for code in range(256):
        for after in (b".", b"\x01" * 9 + b".", b"1\n2\n."):
            with suppress(Exception):
                read(b"\x80\x04" + before + bytes([code]) + after)


def test_a_number_in_the_memo_takes_no_room_for_those_below_it() -> None:
    tracemalloc.start()
    assert read(b"\x80\x02K\x05r\xff\xff\xff\xffj\xff\xff\xff\xff.") == 5
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_lists_may_share_their_parts_and_lie_in_each_other_without_end(tmp_path: Path) -> None:
    shared = read(b"\x80\x02]" + b"q\x01](h\x01h\x01e" * 1000 + b".")
    assert len(shared) == 2
    assert shared[0] is shared[1]
    deep = read(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    assert len(deep) == 1
    round_and_round = read(b"\x80\x02]q\x01h\x01a.")
    assert round_and_round[0] is round_and_round


def test_a_string_that_is_named_again_and_again_is_not_copied_each_time() -> None:
    text = (
        b"X\x00\x10\x00\x00"
        + b"a" * 4096
        + b"q\x01X\x06\x00\x00\x00latin1q\x02"
        + named("_codecs", "encode")
        + b"q\x03"
    )
    call = b"h\x03h\x01h\x02\x86R"
    assert read(b"\x80\x02" + text + call + b".") == b"a" * 4096
    with pytest.raises(BrokenPickleError, match="more bytes for its arrays than the file has"):
        read(b"\x80\x02](" + text + call * 20 + b"e.")


def test_arrays_share_the_bytes_of_the_file() -> None:
    data = b"\x80\x05C\xff" + bytes(255) + b"q\x01" + u8(b"u1") + b"q\x02](" + (
        BUFFER + b"(h\x01h\x02K\xff\x85U\x01CtR"
    ) * 100 + b"e."  # fmt: skip
    arrays = read(data)
    assert len(arrays) == 100
    assert all(np.shares_memory(arrays[0], other) for other in arrays)


def test_an_array_is_in_the_memo_as_it_is_when_complete() -> None:
    found = read(b"\x80\x02](" + BEGUN + b"q\x05(K\x01K\x02\x85" + u8(b"u1") + b"\x89U\x02\x07\x08tbh\x05e.")
    assert [one.tolist() for one in found] == [[7, 8], [7, 8]]
    other = read(
        b"\x80\x02](" + BEGUN + b"q\x05(K\x01q\x05K\x02\x85" + u8(b"u1") + b"\x89U\x02\x07\x08tbh\x05e."
    )
    assert other[1] == 1  # the number that took its place there


def test_there_is_an_end_to_the_operations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pickle_machine, "OPERATIONS", 100)
    file = tmp_path / "a.pkl"
    file.write_bytes(b"(" + b"N" * 97 + b"t.")
    assert load(file) == (None,) * 97
    file.write_bytes(b"(" + b"N" * 98 + b"t.")
    with pytest.raises(ValueError, match=r"a\.pkl: .* one that asks for more than 100 operations\."):
        load(file)


def test_a_file_that_becomes_shorter() -> None:
    with pytest.raises(BrokenPickleError, match="an end where 200 more bytes should be"):
        Machine(BytesIO(b"C\xc8abc"), 1000).run()


def test_spoilt_files_are_read_or_refused_and_nothing_crashes(tmp_path: Path) -> None:
    # In a process of its own, which a crash would end without a word.
    command = [sys.executable, "-W", "ignore", "-m", "tests.data.formats.fuzz", str(tmp_path), "150"]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'wrong': 0" in done.stdout
