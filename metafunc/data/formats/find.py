"""Which form the data at a path has."""

from pathlib import Path

from metafunc.data.formats.cache_pickles import CachePickles
from metafunc.data.formats.class_folders import ClassFolders
from metafunc.data.formats.csv_files import CsvFiles
from metafunc.data.formats.form import Form
from metafunc.data.formats.hdf5_files import Hdf5Files
from metafunc.data.formats.omniglot import Omniglot
from metafunc.data.formats.packed_omniglot import PackedOmniglot
from metafunc.data.formats.phase_pickles import PhasePickles
from metafunc.data.formats.png_pickles import PngPickles
from metafunc.data.tasks import refusal

FORMS: tuple[type[Form], ...] = (
    Omniglot,
    PackedOmniglot,
    CsvFiles,
    CachePickles,
    Hdf5Files,
    PhasePickles,
    PngPickles,
    ClassFolders,
)
"""Every form, in the order in which they are tried."""


class NotRecognisedError(ValueError):
    """There is nothing at the path, or nothing that has a known form."""


def find(path: str | Path) -> Form:
    """The data at a path, in whichever form it has.

    Raises:
        NotRecognisedError: nothing is there, or it has no known form. The message lists what was looked for.
    """
    place = Path(path).expanduser().resolve()
    if not place.exists():
        error = refusal(str(place), "a folder or file of data", "nothing there", "check the path")
        raise NotRecognisedError(str(error))
    for form in FORMS:
        found = form.find(place)
        if found is not None:
            return found
    looked_for = "; ".join(form.layout for form in FORMS)
    got = "a file" if place.is_file() else "a folder with " + _some(place)
    error = refusal(str(place), f"one of these: {looked_for}", got, "pass the folder that holds the data")
    raise NotRecognisedError(str(error))


def _some(folder: Path) -> str:
    """The first names in a folder."""
    names = sorted(file.name for file in folder.iterdir())
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "nothing in it"
