"""How many tensors autograd keeps for a backward pass."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import torch
from torch import Tensor


class _Kept:
    def __init__(self, x: Tensor) -> None:
        self.x = x


class Saved:
    """A context that counts the tensors saved in it that are still alive, and all other tensors that Python knows."""

    def __init__(self) -> None:
        self._kept: weakref.WeakSet[_Kept] = weakref.WeakSet()
        self._hooks: Any = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.x)

    def _pack(self, x: Tensor) -> _Kept:
        kept = _Kept(x.detach())
        self._kept.add(kept)
        return kept

    def alive(self) -> int:
        gc.collect()
        return len(self._kept) + sum(issubclass(type(x), Tensor) for x in gc.get_objects())

    def __enter__(self) -> Saved:
        self._hooks.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._hooks.__exit__(*exc)
