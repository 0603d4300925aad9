"""Norms with running statistics: whose statistics they take, from which pass, and in which precision."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]
from torch.overrides import TorchFunctionMode

from metafunc import errors

Buffers = Literal["batch", "frozen", "task"]
"""How a norm with running statistics normalises; see :func:`metafunc.functional`."""

_OPTIONS = ("batch", "frozen", "task")


def policies(module: nn.Module, buffers: Buffers | Mapping[str, Buffers]) -> dict[str, Buffers]:
    """Policies by the names of modules, ``""`` for the whole; the longest name that a norm's begins with counts.

    Raises:
        ValueError: For an unknown policy or name, or for both "batch" and "task".
    """
    found: dict[str, Any] = {"": buffers} if isinstance(buffers, str) else {"": "batch", **buffers}
    names = list(_parts(module))
    for name, policy in found.items():
        if policy not in _OPTIONS:
            raise errors.out_of_range(
                "buffers", policy, f"{' or '.join(map(repr, _OPTIONS))}, or a dict of these", "by name"
            )
        if name not in names:
            raise errors.no_module_by_that_name(name, names)
    used = {policy for _, policy in by_policy(module, found)}
    if {"batch", "task"} <= used:
        raise errors.two_statistics()
    return found


def _parts(module: nn.Module) -> dict[str, nn.Module]:
    return dict(module.named_modules())


def by_policy(module: nn.Module, found: Mapping[str, Buffers]) -> list[tuple[Any, Buffers]]:
    """The norms with running statistics, and the policy of each."""
    norms: list[tuple[Any, Buffers]] = []
    for name, part in _parts(module).items():
        if isinstance(part, _NormBase) and part.track_running_stats:
            above = [p for p in found if not p or name == p or name.startswith(f"{p}.")]
            norms.append((part, found[max(above, key=len)]))
    return norms


@contextmanager
def normalising(module: nn.Module, found: Mapping[str, Buffers]) -> Generator[None]:
    """Within it the norms of a module behave as their policies say."""
    norms = by_policy(module, found)
    before = [(norm, norm.training, norm.track_running_stats) for norm, _ in norms]
    for norm, policy in norms:
        if policy != "frozen" and not norm.training:
            raise errors.norm_in_eval_mode(type(norm).__name__)
    try:
        for norm, policy in norms:
            if policy == "frozen":
                norm.training = False
            else:
                norm.track_running_stats = False
        yield
    finally:
        for norm, training, tracking in before:
            norm.training, norm.track_running_stats = training, tracking


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
        if func is F.batch_norm and _by_batch(*args, **(kwargs or {})):
            x: Tensor = args[0]
            axes = [i for i in range(x.ndim) if i != 1]
            self.found.append((x.mean(axes), x.var(axes)))
        return func(*args, **(kwargs or {}))


def _by_batch(*args: Any, training: bool = False, **_: Any) -> bool:
    """Whether a norm takes the statistics of its inputs."""
    return bool(args[5] if len(args) > 5 else training)


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
        if func is not F.batch_norm or not _by_batch(*args, **(kwargs or {})):
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
