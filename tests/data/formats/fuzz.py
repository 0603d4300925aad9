"""Spoils files of data at random and reads them: ``python -m tests.data.formats.fuzz FOLDER COUNT [SEED]``.

A file may be read or refused with an error that names it. Anything else is told, and ends the program with 1: another
error, much memory, or, as nothing is told then at all, a crash.
"""

from __future__ import annotations

import pickle
import pickletools
import random
import sys
import tracemalloc
from pathlib import Path

import numpy as np

from metafunc.data.formats import CachePickles, Form, PackedOmniglot, PhasePickles, PngPickles
from tests.data.formats import samples

MEMORY = 1 << 24
OPERATIONS = [
    bytes([code])
    for code in b"().0123456789BCDFGIJKLMNPQRSTUVX\\]abcdeghijlopqrstu}\x80\x81\x82\x85\x86\x87\x88\x89"
]
OPERATIONS += [bytes([code]) for code in range(0x8A, 0x99)]
NUMBERS = [b"\xff" * 4, b"\x00" * 4, b"\xff\xff\xff\x7f", b"\x00" * 7 + b"\x40"]


def originals(folder: Path) -> list[tuple[Form, Path, bytes]]:
    """Whole files of every form that is a pickle, by every protocol, and a packed one."""
    found: list[tuple[Form, Path, bytes]] = []
    images = np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3)
    file = np.frombuffer(samples.png(images[0]), np.uint8)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        home = folder / str(protocol)
        contents: dict[str, tuple[Form, object]] = {
            "mini-imagenet-cache-train.pkl": (
                CachePickles(home),
                {"image_data": images, "class_dict": {"a": [0, 1], "b": np.array([2, 3])}},
            ),
            "FC100_train.pickle": (
                PhasePickles(home),
                {"data": images, "labels": [np.int64(1), 1, "x", "x"], "more": [None, 0.5, (b"a", ())]},
            ),
            "train_images_png.pkl": (PngPickles(home), [file, file.tobytes()]),
            "train_labels.pkl": (PngPickles(home), {"label_specific": [0, 0], "label_specific_str": ["c"]}),
        }
        for name, (form, value) in contents.items():
            data = pickle.dumps(value, protocol)
            samples.put(home / name, data)
            found.append((form, home / name, data))
            if protocol < 4:  # names without their lengths; as numpy 1 has them
                found.append((form, home / name, data.replace(b"numpy._core.", b"numpy.core.")))
    samples.packed_omniglot(folder / "o.npz")
    found.append((PackedOmniglot(folder / "o.npz"), folder / "o.npz", (folder / "o.npz").read_bytes()))
    return found


def pieces(data: bytes) -> list[bytes]:
    """The operations of a pickle with what belongs to each, or, of what is no pickle, some bytes at a time."""
    try:
        starts = [start for _, _, start in pickletools.genops(data)]
    except ValueError:
        starts = list(range(0, len(data), 8))
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def spoilt(whole: list[bytes], draw: random.Random) -> bytes:
    """The same pieces after some changes: one is lost, twice there, in another place, another one, or changed inside."""
    parts = list(whole)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at, other = draw.randrange(len(parts)), draw.randrange(len(parts))
        change = draw.randrange(6)
        if change == 0:
            parts[at] = b""
        elif change == 1:
            parts[at] += parts[other]
        elif change == 2:
            parts[at], parts[other] = parts[other], parts[at]
        elif change == 3:
            parts.insert(at, draw.choice(OPERATIONS))
        elif change == 4:
            parts[at] = draw.choice(OPERATIONS) + parts[at][1:]
        else:
            start = draw.randrange(len(parts[at]) + 1)
            new = draw.choice([draw.randbytes(1), draw.randbytes(1), *NUMBERS])
            parts[at] = parts[at][:start] + new + parts[at][start + len(new) :]
    return b"".join(parts)


def read(form: Form) -> None:
    for pictures in form.classes("train").values():
        for picture in pictures:
            picture.decode()


def main(folder: Path, count: int, seed: int) -> int:
    draw = random.Random(seed)
    files = originals(folder)
    for form, _, _ in files:
        read(form)
    parts = {whole: pieces(whole) for _, _, whole in files}
    outcomes = {"read": 0, "refused": 0, "wrong": 0}
    tracemalloc.start()
    for _ in range(count):
        form, file, whole = draw.choice(files)
        data = spoilt(parts[whole], draw)
        file.write_bytes(data)
        tracemalloc.reset_peak()
        try:
            read(form)
            outcome, said = "read", ""
        except ValueError as error:
            outcome, said = ("refused" if str(error).startswith(str(folder)) else "wrong"), str(error)
        except Exception as error:
            outcome, said = "wrong", f"{type(error).__name__}: {error}"
        peak = tracemalloc.get_traced_memory()[1]
        if peak > MEMORY:
            outcome, said = "wrong", f"{peak} bytes of memory"
        outcomes[outcome] += 1
        if outcome == "wrong":
            sys.stdout.write(f"{file.name}: {said[:300]}\n  {data!r}\n")
        file.write_bytes(whole)
    sys.stdout.write(f"{outcomes}\n")
    return 1 if outcomes["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0))
