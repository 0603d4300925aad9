"""Data sets as plain objects, and samplers of few-shot tasks, on torch and numpy alone.

Readers of image files and the real curves of `LifeExpectancy` need the extra `data`.
"""

from metafunc.data.dataset import ImageDataset
from metafunc.data.download import download_omniglot
from metafunc.data.episodes import Episodes
from metafunc.data.glyphs import glyphs
from metafunc.data.life_expectancy import LifeExpectancy
from metafunc.data.linear_regression import LinearRegression
from metafunc.data.quadratics import Quadratics
from metafunc.data.read import read
from metafunc.data.report import Report, check
from metafunc.data.sinusoid import Curves, Sinusoids
from metafunc.data.tasks import Sampler, Tasks

__all__ = [
    "Curves",
    "Episodes",
    "ImageDataset",
    "LifeExpectancy",
    "LinearRegression",
    "Quadratics",
    "Report",
    "Sampler",
    "Sinusoids",
    "Tasks",
    "check",
    "download_omniglot",
    "glyphs",
    "read",
]
