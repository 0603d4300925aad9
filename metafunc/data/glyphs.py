"""The letters that ship with the package."""

from importlib.resources import files

import numpy as np
import torch

from metafunc.data.dataset import ImageDataset


def glyphs() -> ImageDataset:
    """Letters of many scripts, 20 drawings of each: a stand-in for Omniglot that needs no download.

    The drawings are synthetic: outlines of the DejaVu fonts, warped at random
    (`metafunc.data.glyphs_generate` made them). Letters that look alike in several scripts are one class. The
    splits "train", "val" and "test" are by script, and no test letter looks like a training letter, turned by
    a quarter or not. Ink is 1 and paper is 0.

    Shapes: images uint8 [22560, 1, 28, 28], those of a class side by side.

    Cost: about 0.1 s, and 18 MB of memory; nothing is cached, so keep what is returned.
    """
    with files("metafunc.data").joinpath("glyphs.npz").open("rb") as file, np.load(file) as arrays:
        classes, drawings, *image = arrays["shape"].tolist()
        images = torch.as_tensor(np.unpackbits(arrays["bits"])).reshape(classes * drawings, *image)
        labels = torch.arange(classes).repeat_interleave(drawings)
        names = tuple(str(name) for name in arrays["names"])
        splits = {
            name: torch.as_tensor(np.flatnonzero(arrays["splits"] == name))
            for name in ("train", "val", "test")
        }
    return ImageDataset(images, labels, names, splits, peak=1)
