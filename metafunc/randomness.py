"""Modules whose random numbers come from a key: the same in looped, mapped, chunked and recomputed runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from metafunc import errors
from metafunc.generators import Snapshot
from metafunc.philox import uniform


class Keyed(TorchFunctionMode):
    """Within it dropout takes its random numbers from a key; without a key it is refused.

    Attention's own dropout is seen as well. Whatever else draws, draws from torch's generators, whose states tell.
    """

    def __init__(self, key: Tensor | None) -> None:
        super().__init__()
        self._key = key
        self._draws = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func in _CHANNELS:
            return self._dropout(func, *args, **named)
        if func is F.scaled_dot_product_attention and _drops(*args, **named):
            return self._attention(*args, **named)
        if func is F.multi_head_attention_forward:
            with self:
                return _ATTENTION(*args, **named)
        if named.get("generator") is not None:
            raise errors.not_by_key(_name_of(func))
        return func(*args, **named)

    def _dropout(
        self, func: Any, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0:
            return x
        if self._key is None:
            raise errors.random_without_key()
        self._draws += 1
        numbers = uniform(self._key, self._draws, _CHANNELS[func](x.shape), x)
        return torch.where(numbers >= p, x / (1 - p), torch.zeros_like(x)) if p < 1 else torch.zeros_like(x)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if enable_gqa:
            heads = query.shape[-3]
            key, value = (x.repeat_interleave(heads // x.shape[-3], -3) for x in (key, value))
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None:
            hide = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if hide else scores + attn_mask
        return self._dropout(F.dropout, scores.softmax(-1), dropout_p) @ value


def _every_number(shape: torch.Size) -> torch.Size:
    return shape


def _channels(unbatched: int | None) -> Callable[[torch.Size], torch.Size]:
    """One number a channel: the first axes are those of examples and channels, or of channels alone."""

    def kept(shape: torch.Size) -> torch.Size:
        axes = 1 if len(shape) == unbatched else 2
        return torch.Size((*shape[:axes], *(1 for _ in shape[axes:])))

    return kept


_CHANNELS: dict[Callable[..., Tensor], Callable[[torch.Size], torch.Size]] = {
    F.dropout: _every_number,
    torch.dropout: _every_number,
    F.dropout1d: _channels(2),
    F.dropout2d: _channels(None),  # torch takes three axes for those of examples, channels and length
    F.dropout3d: _channels(4),
    torch.feature_dropout: _channels(None),
}
"""The kinds of dropout: from the shape of an input to that of the random numbers."""


def _drops(*args: Any, dropout_p: float = 0.0, **_: Any) -> bool:
    return (args[4] if len(args) > 4 else dropout_p) > 0


def _opened(fn: Any) -> Any:
    """A function of torch's that does not ask whether a mode wants to replace it; those that it calls do."""

    def nobody(*_: Any) -> bool:
        return False

    asked = {name: nobody for name in fn.__globals__ if name.startswith("has_torch_function")}
    opened = FunctionType(fn.__code__, {**fn.__globals__, **asked}, fn.__name__, fn.__defaults__)
    opened.__kwdefaults__ = fn.__kwdefaults__
    return opened


_ATTENTION = _opened(F.multi_head_attention_forward)


class _Drawing(TorchFunctionMode):
    """Notes the first operator within it that draws from a generator, or that fails."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._snapshot = Snapshot({torch.device("cpu"), device})
        self.name: str | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except Exception:
            self.name = self.name or _name_of(func)
            raise
        finally:
            if self.name is None and self._snapshot.moved():
                self.name = _name_of(func)


def name_of_what_draws(run: Callable[[], Any], device: torch.device) -> str:
    """The name of the first operator in ``run`` that draws from a generator."""
    drawing = _Drawing(device)
    with suppress(RuntimeError), drawing:  # torch.func.vmap refuses to draw
        run()
    return drawing.name or "an operator"


def _name_of(func: Any) -> str:
    return getattr(func, "__name__", str(func))
