"""Small data sets and samplers of few-shot tasks, on torch and numpy alone."""

from metafunc.data.dataset import ImageDataset
from metafunc.data.episodes import Episodes
from metafunc.data.glyphs import glyphs
from metafunc.data.sinusoid import Curves, Sinusoids
from metafunc.data.tasks import Tasks

__all__ = ["Curves", "Episodes", "ImageDataset", "Sinusoids", "Tasks", "glyphs"]
