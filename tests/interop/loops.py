"""One inner loop through each of the three interfaces, for tests that hold for all of them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import metafunc.interop.higher as higher
import metafunc.interop.learn2learn as learn2learn
import metafunc.interop.torchopt as torchopt

LIBRARIES = ["higher", "learn2learn", "torchopt"]
Loop = tuple[Callable[..., Tensor], Callable[[Tensor], Any]]


@contextmanager
def opened(library: str, net: nn.Module, estimator: Any, rate: Any = 0.1) -> Generator[Loop, None, None]:
    """The fast model and its step, by gradient descent; ``rate`` may be a tensor that is learned."""
    if library == "higher":
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        settings: Any = {"copy_initial_weights": False, "override": {"lr": [rate]}, "estimator": estimator}
        with higher.innerloop_ctx(net, optimizer, **settings) as (model, diffopt):
            yield model, diffopt.step
    elif library == "learn2learn":
        learner = learn2learn.MAML(net, rate, estimator=estimator).clone()
        yield learner, learner.adapt
    else:
        start = torchopt.extract_state_dict(net)
        learned = (lambda _: rate) if isinstance(rate, Tensor) else rate
        try:
            yield net, torchopt.MetaSGD(net, learned, estimator=estimator).step
        finally:
            torchopt.recover_state_dict(net, start)
