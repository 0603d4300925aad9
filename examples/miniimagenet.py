"""Few-shot classification of photographs: any estimator, inner solver, ways and shots on miniImageNet.

    python examples/miniimagenet.py --data miniimagenet --device cuda
    python examples/miniimagenet.py --data miniimagenet --loop
    python examples/miniimagenet.py --data miniimagenet --shots 5 --estimator binomial --order 3 --rescale
    python examples/miniimagenet.py --data miniimagenet --estimator implicit --prox 0.5 --inner-steps 10

``--data`` is a folder with miniImageNet in any form that docs/data.md lists. The defaults are those of BinomMAML,
appendix C.2: with the complete data set and each estimator in turn they are its Table 1. A run that was stopped goes on
with the same command.
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
    """Meta-train on miniImageNet, and test on classes that training never met."""

    data: Path  # miniImageNet in any form that docs/data.md lists.


def main(options: Options) -> None:
    torch.manual_seed(options.seed)
    episodes = episodes_of(options, mf.data.read(options.data, size=84))
    net = mf.nets.conv4(options.ways, width=options.width, side=84)
    meta_train(options, net, episodes, Path("runs/miniimagenet"))


if __name__ == "__main__":
    main(tyro.cli(Options))
