"""What can be said about data before an image is decoded."""

from collections.abc import Iterator, Mapping

from metafunc.data.formats import Fault, Form

Outline = Mapping[str, Mapping[str, int]]
"""Split -> class -> how many images it has."""


def outline(form: Form) -> Outline:
    """The classes of every split and their sizes.

    Raises:
        ValueError: a file that lists the images, or holds them all, is not as it should be.
        ImportError: a package that the form needs is not installed.
    """
    return {split: count(form, split) for split in form.splits}


def count(form: Form, split: str) -> dict[str, int]:
    """The classes of one split and their sizes."""
    return {name: len(pictures) for name, pictures in form.classes(split).items()}


def faults(form: Form, sizes: Outline) -> Iterator[Fault]:
    """What is wrong with the data as far as its outline shows."""
    yield from form.faults()
    home: dict[str, str] = {}
    for split, classes in sizes.items():
        if not classes:
            yield Fault(
                "splits without a class", f"{split} of {form.path} has no class. Fill it, or delete it."
            )
        for name, images in classes.items():
            if images == 0:
                yield Fault("classes without an image", f"{name} of {split} in {form.path} has no image")
            if name in home:
                both = f"{name} is in {home[name]} and in {split} of {form.path}"
                yield Fault("classes in two splits", f"{both}. Its images would be trained on and judged by.")
            home[name] = split
