"""Few-shot classification of handwritten characters: any estimator, inner solver, ways and shots on Omniglot.

    python examples/omniglot.py --data omniglot --estimator implicit --prox 2 --inner-steps 16
    python examples/omniglot.py --data omniglot --ways 20 --shots 5 --estimator binomial --order 3

``--data`` is a folder with Omniglot's two zips (``metafunc data download omniglot FOLDER`` fetches them), or any other
form that docs/data.md lists; without it the tasks are of the letters that ship with metafunc. The defaults are those of
iMAML, appendix F.2, and MAML, appendix A.1, where these agree. A run that was stopped goes on with the same command.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from few_shot import FewShot, meta_train

import metafunc as mf


@dataclass(frozen=True)
class Options(FewShot):
    """Meta-train on Omniglot, and test on characters that training never met."""

    data: Path | None = None  # Omniglot in any form of docs/data.md; letters that ship if not given.
    split: Literal["own", "random"] = "own"  # Or 1,100, 100, the rest at random, as MAML's.
    queries: int = 5  # Drawings of each to be judged by in training; 15 in validation and test.
    width: int = 64  # Channels of the net.
    inner_lr: float = 0.1  # Their learning rate, of nesterov 1 / smoothness; newton-cg finds its own.
    batch: int = 32  # Tasks in a meta-step.
    steps: int = 60_000  # Meta-steps. The same command with more of them goes on where a run has ended.


def main(options: Options) -> None:
    torch.manual_seed(options.seed)
    omniglot = mf.data.glyphs() if options.data is None else mf.data.read(options.data, size=28)
    if options.split == "random":
        omniglot = omniglot.resplit(train=1100, val=100, test=len(omniglot.names) - 1200)
    omniglot, few = omniglot.to(options.device), (options.ways, options.shots)
    episodes = {name: mf.data.Episodes(omniglot.split(name), *few, queries=15) for name in ("val", "test")}
    # A character turned by a quarter is another one: four times the classes to train on.
    episodes["train"] = mf.data.Episodes(omniglot.split("train"), *few, options.queries, rotations=True)
    net = mf.nets.conv4(options.ways, channels=1, width=options.width, side=28, shrink="stride")
    meta_train(options, net, episodes, Path("runs/omniglot"))


if __name__ == "__main__":
    main(tyro.cli(Options))
