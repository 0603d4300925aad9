"""The forms in which people keep few-shot image data, one file each; none imports another."""

from metafunc.data.formats.cache_pickles import CachePickles
from metafunc.data.formats.class_folders import ClassFolders
from metafunc.data.formats.csv_files import CsvFiles
from metafunc.data.formats.find import FORMS, find
from metafunc.data.formats.form import Fault, Form, Picture
from metafunc.data.formats.hdf5_files import Hdf5Files
from metafunc.data.formats.omniglot import Omniglot
from metafunc.data.formats.packed_omniglot import PackedOmniglot
from metafunc.data.formats.phase_pickles import PhasePickles
from metafunc.data.formats.png_pickles import PngPickles

__all__ = [
    "FORMS",
    "CachePickles",
    "ClassFolders",
    "CsvFiles",
    "Fault",
    "Form",
    "Hdf5Files",
    "Omniglot",
    "PackedOmniglot",
    "PhasePickles",
    "Picture",
    "PngPickles",
    "find",
]
