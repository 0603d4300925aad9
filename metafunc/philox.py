"""Random numbers as a function of a key: the counter-based generator Philox."""

from __future__ import annotations

import torch
from torch import Tensor

Words = tuple[Tensor, Tensor, Tensor, Tensor]
"""Four words of 32 bits each, in int64 tensors."""

_MASK = 0xFFFFFFFF
_NUMBERS, _KEYS = 0, 1  # the last word of the counter: what it is for


def philox(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """128 random bits for every counter, in ten rounds.

    For one key this is a permutation of the counters, and another key is another permutation: streams of two keys are
    no parts of one long stream, which could overlap.

    Source: Salmon et al. 2011, Philox4x32-10.
    """
    a, b, c, d = counter
    low, high = key
    for _ in range(10):
        (top, bottom), (upper, lower) = _product(0xD2511F53, a), _product(0xCD9E8D57, c)
        a, b, c, d = upper ^ b ^ low, lower, top ^ d ^ high, bottom
        low, high = low + 0x9E3779B9 & _MASK, high + 0xBB67AE85 & _MASK
    return a, b, c, d


def _product(factor: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """The upper and the lower half of a product of two words; int64 overflows as bits do."""
    product = factor * x
    return product >> 32 & _MASK, product & _MASK


def uniform(key: Tensor, draw: int, shape: torch.Size, like: Tensor) -> Tensor:
    """Numbers in ``[0, 1)`` of 24 random bits, a function of their arguments alone.

    Args:
        key: An integer tensor without axes, of which 64 bits count.
        draw: Which draw under this key.
        shape: The shape of the numbers.
        like: A tensor of the dtype and device to return.
    """
    count = shape.numel()
    place = torch.arange(-(-count // 4), device=like.device)
    zero = torch.zeros_like(place)
    counter = place & _MASK, place >> 32, zero + draw, zero + _NUMBERS
    words = torch.stack(philox(counter, _halves(key.to(like.device))), -1).reshape(-1)
    return ((words[:count] >> 8) / (1 << 24)).to(like.dtype).reshape(shape)


def fold_in(key: Tensor, number: Tensor | int) -> Tensor:
    """A new key from a key and a number, such as that of a step or of a task.

    Args:
        key: An integer tensor without axes.
        number: A number of at least 0; a tensor counts by its value.

    Returns:
        An int64 tensor like ``key``.

    Example:
        >>> keys = [mf.fold_in(key, k) for k in range(steps)]
    """
    # `torch.as_tensor` of a number on a GPU would have the host wait for the copy.
    made = number if isinstance(number, Tensor) else torch.full_like(key, number, dtype=torch.int64)
    at = made.to(key.device, torch.int64)
    zero = torch.zeros_like(at)
    low, high, _, _ = philox((at & _MASK, at >> 32 & _MASK, zero, zero + _KEYS), _halves(key))
    return (high & 0x7FFFFFFF) << 32 | low


def _halves(key: Tensor) -> tuple[Tensor, Tensor]:
    key = key.to(torch.int64)
    return key & _MASK, key >> 32 & _MASK
