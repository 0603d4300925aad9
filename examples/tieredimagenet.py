"""Few-shot classification of photographs: any estimator, inner solver, ways and shots on tieredImageNet.

    python examples/tieredimagenet.py --data tiered-imagenet --device cuda
    python examples/tieredimagenet.py --data tiered-imagenet --shots 5 --estimator binomial --order 3 --rescale

``--data`` is the folder with the pickles of tieredImageNet, in the form that docs/data.md describes. The images of its
608 classes, 16.5 GB as bytes, are decoded once into a file, from which the episodes are read without loading it. The
defaults are those of BinomMAML, appendix C.2: each estimator in turn gives the right half of its Table 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from few_shot import Photographs, episodes_of, meta_train

import metafunc as mf


@dataclass(frozen=True, kw_only=True)
class Options(Photographs):
    """Meta-train on tieredImageNet, and test on classes that training never met."""

    data: Path  # tieredImageNet in any form that docs/data.md lists.


def main(options: Options) -> None:
    torch.manual_seed(options.seed)
    episodes = episodes_of(options, mf.data.read(options.data, size=84))
    net = mf.nets.conv4(options.ways, width=options.width, side=84)
    meta_train(options, net, episodes, Path("runs/tieredimagenet"))


if __name__ == "__main__":
    main(tyro.cli(Options))
