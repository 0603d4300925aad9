"""Random numbers as a function of a key: the same in looped, mapped, chunked and recomputed runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from metafunc import errors

_MASK = 0xFFFFFFFF


def uniform(key: Tensor, draw: int, shape: torch.Size, like: Tensor) -> Tensor:
    """Numbers in ``[0, 1)`` of 24 random bits, a function of their arguments alone.

    Maths: the PCG hash of 32-bit integers (Jarzynski and Olano 2020) of the key, the number of the draw, and the place
    in the tensor, one after the other.

    Args:
        key: An integer tensor without axes.
        draw: Which draw under this key.
        shape: The shape of the numbers.
        like: A tensor of the dtype and device to return.
    """
    start = _hash(_hash(key & _MASK) + draw & _MASK)
    places = torch.arange(shape.numel(), device=like.device).reshape(shape)
    bits = _hash(start.to(like.device) + places & _MASK) >> 8
    return bits.to(like.dtype) / (1 << 24)


def _hash(x: Tensor) -> Tensor:
    state = x * 747796405 + 2891336453 & _MASK
    word = ((state >> ((state >> 28) + 4)) ^ state) * 277803737 & _MASK
    return (word >> 22) ^ word


class Keyed(TorchFunctionMode):
    """Within it dropout takes its random numbers from a key; without a key, and anything else random, is refused."""

    def __init__(self, key: Tensor | None) -> None:
        super().__init__()
        self._key = key
        self._draws = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func in _DROPOUTS:
            return self._dropout(func, *args, **named)
        if func in _RANDOM or (func is F.scaled_dot_product_attention and _attention_drops(*args, **named)):
            raise errors.not_by_key(getattr(func, "__name__", str(func)))
        return func(*args, **named)

    def _dropout(
        self, func: Any, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0:
            return x
        if self._key is None:
            raise errors.random_without_key()
        self._draws += 1
        # Whole feature maps are dropped together: one number for each of their first axes.
        kept = x.shape[: x.ndim - _DROPOUTS[func]]
        shape = torch.Size((*kept, *(1 for _ in x.shape[len(kept) :])))
        numbers = uniform(self._key, self._draws, shape, x)
        return torch.where(numbers >= p, x / (1 - p), torch.zeros_like(x)) if p < 1 else torch.zeros_like(x)


_DROPOUTS: dict[Callable[..., Tensor], int] = {F.dropout: 0, F.dropout1d: 1, F.dropout2d: 2, F.dropout3d: 3}
_RANDOM: set[Any] = {
    F.alpha_dropout,
    F.feature_alpha_dropout,
    F.rrelu,
    F.gumbel_softmax,
    torch.dropout,
    torch.bernoulli,
    torch.rand_like,
    torch.randn_like,
    Tensor.bernoulli_,
    Tensor.uniform_,
    Tensor.normal_,
}


def _attention_drops(*args: Any, dropout_p: float = 0.0, **_: Any) -> bool:
    return (args[4] if len(args) > 4 else dropout_p) > 0
