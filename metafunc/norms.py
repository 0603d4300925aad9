"""Batch norms: their statistics, taken from one pass and used in another, and their precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from metafunc import errors

Statistics = list[tuple[Tensor, Tensor]]
"""Mean and variance of the inputs of every batch norm, in the order of their calls."""


class Recording(TorchFunctionMode):
    """Within it batch norms note the statistics of their batches: the mean, and the unbiased variance that running
    statistics are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Statistics = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm:
            x: Tensor = args[0]
            axes = [i for i in range(x.ndim) if i != 1]
            self.found.append((x.mean(axes), x.var(axes)))
        return func(*args, **(kwargs or {}))


class InFull(TorchFunctionMode):
    """Within it batch and instance norms compute in single precision, whatever precision their inputs have.

    As autocast recommends; torch cannot map the derivative of those with inputs and weights of two precisions.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (F.batch_norm, F.instance_norm) and args[0].dtype in (torch.bfloat16, torch.float16):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


class Replaying(TorchFunctionMode):
    """Within it batch norms normalise with statistics that were recorded, to which a derivative flows."""

    def __init__(self, recorded: Statistics) -> None:
        super().__init__()
        self._left = iter(recorded)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.batch_norm:
            return func(*args, **(kwargs or {}))
        return self._normalised(*args, **(kwargs or {}))

    def _normalised(
        self,
        x: Tensor,
        running_mean: Any,
        running_var: Any,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        statistics = next(self._left, None)
        if statistics is None:
            raise errors.other_passes()
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        mean, var = (s.reshape(shape) for s in statistics)
        found = (x - mean) * (var + eps).rsqrt()
        found = found if weight is None else found * weight.reshape(shape)
        return found if bias is None else found + bias.reshape(shape)
