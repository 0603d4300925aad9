"""Says what is in a folder of data, and what is wrong with it."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar, final

from metafunc.data.formats import Form, Picture, find
from metafunc.data.formats.form import Pixels
from metafunc.data.outline import Outline, count, faults
from metafunc.data.progress import Progress, shown
from metafunc.data.tasks import check_count

T = TypeVar("T")

LINES = 10
"""So many problems of one kind are printed."""


@final
@dataclass(frozen=True, slots=True)
class Report:
    """What `check` found. Its string is a table and a list.

    Attributes:
        path: where the data is.
        title: the form it has.
        sizes: split -> class -> how many images it has.
        problems: kind of problem -> one line for each; empty when all is well.
    """

    path: Path
    title: str
    sizes: Outline
    problems: Mapping[str, tuple[str, ...]]

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.title}", f"{'split':<8}{'classes':>9}{'images':>9}  per class"]
        for split, classes in self.sizes.items():
            images = list(classes.values()) or [0]
            span = f"{min(images)}" if min(images) == max(images) else f"{min(images)} to {max(images)}"
            lines.append(f"{split:<8}{len(classes):>9}{sum(images):>9}  {span}")
        for kind, found in self.problems.items():
            lines += [f"{kind}: {len(found)}", *(f"  {line}" for line in found[:LINES])]
            if len(found) > LINES:
                lines.append(f"  and {len(found) - LINES} more")
        return "\n".join([*lines, *(() if self.problems else ("no problems",))])


def check(source: str | Path | Form, *, size: int | None = None, progress: Progress | None = None) -> Report:
    """Decodes every image and lists whatever is wrong: files that cannot be read, classes in two splits or without an
    image, images that are there twice, lists and folders that disagree, images of odd sizes.

    Args:
        source: as for `read`.
        size: as for `read`: with it no size is odd.
        progress: as for `read`.

    Cost: the time of decoding, and memory for some 200 bytes an image.

    Raises:
        NotRecognisedError: nothing is there, or it has no known form.
        ImportError: the form needs Pillow or h5py, which the extra `data` installs.
    """
    if size is not None:
        check_count("size", size)
    form = source if isinstance(source, Form) else find(source)
    sizes, problems = _outlined(form)
    total = sum(sum(classes.values()) for classes in sizes.values())
    look = _Look(resize=size is not None or form.size is not None)
    with shown(progress, f"checking {form.path.name}") as show:
        for split in sizes:
            for name, pictures in form.classes(split).items():
                for picture in pictures:
                    look.at(picture, f"{split} {name}")
                    show(look.done, total)
    problems.update(look.problems())
    lists = {kind: tuple(lines) for kind, lines in problems.items() if lines}
    return Report(form.path, form.title, sizes, lists)


def _outlined(form: Form) -> tuple[dict[str, Mapping[str, int]], dict[str, list[str]]]:
    """The outline as far as files can be read, and the problems met."""
    unreadable: list[str] = []
    problems = {"files that cannot be read": unreadable}

    def attempt(work: Callable[[], T]) -> T | None:
        try:
            return work()
        except ValueError as error:
            if str(error) not in unreadable:
                unreadable.append(str(error))
            return None

    counted = {split: attempt(partial(count, form, split)) for split in form.splits}
    sizes: dict[str, Mapping[str, int]] = {
        split: classes for split, classes in counted.items() if classes is not None
    }
    for fault in attempt(lambda: list(faults(form, sizes))) or ():
        problems.setdefault(fault.kind, []).append(fault.text)
    return sizes, problems


@dataclass(slots=True)
class _Look:
    """What has been seen so far."""

    resize: bool
    done: int = 0
    broken: list[str] = field(default_factory=list[str])
    twice: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    shapes: Counter[tuple[int, ...]] = field(default_factory=Counter[tuple[int, ...]])
    # Where each shape is met; the most common one is let go in the end.
    places: dict[tuple[int, ...], list[str]] = field(default_factory=dict[tuple[int, ...], list[str]])
    first: dict[bytes, tuple[str, str]] = field(default_factory=dict[bytes, tuple[str, str]])

    def at(self, picture: Picture, home: str) -> None:
        self.done += 1
        try:
            pixels = picture.decode()
        except ValueError as error:
            self.broken.append(str(error))
            return
        self.shapes[pixels.shape] += 1
        self.places.setdefault(pixels.shape, []).append(picture.where)
        where, other = self.first.setdefault(_digest(pixels), (picture.where, home))
        if where != picture.where:
            same_split = home.split()[0] == other.split()[0]
            kind = f"images that are twice in {'one split' if same_split else 'two splits'}"
            self.twice.setdefault(kind, []).append(
                f"{picture.where} ({home}) is the same image as {where} ({other})"
            )

    def problems(self) -> dict[str, list[str]]:
        odd: list[str] = []
        if not self.resize and len(self.shapes) > 1:
            usual = self.shapes.most_common(1)[0][0]
            odd = [
                f"{where}: {shape[0]}x{shape[1]}, most are {usual[0]}x{usual[1]}"
                for shape, places in self.places.items()
                if shape != usual
                for where in places
            ]
        return {"images that cannot be decoded": self.broken, **self.twice, "images of another size": odd}


def _digest(pixels: Pixels) -> bytes:
    return blake2b(repr(pixels.shape).encode() + pixels.tobytes(), digest_size=16).digest()
