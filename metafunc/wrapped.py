"""Modules that are spread over processes or devices."""

from __future__ import annotations

from torch import nn

from metafunc import errors

_WRAPPERS = {
    "DistributedDataParallel",
    "DataParallel",
    "FullyShardedDataParallel",
    "FSDPModule",
    "DeepSpeedEngine",
}


def refuse_wrapped(module: nn.Module, name: str) -> None:
    """Raises if a module, or a part of it, is wrapped for several processes or devices.

    A wrapper reduces gradients in hooks of its own forward and backward pass. A function of the parameters runs
    neither, so that every process would go its own way.

    Raises:
        TypeError: With the way to do it.
    """
    parts: dict[str, nn.Module] = dict(module.named_modules())
    for path, part in parts.items():
        # By name: torch without distributed does not have them all, and it must not be imported for this.
        kinds = [kind.__name__ for kind in type(part).__mro__ if kind.__name__ in _WRAPPERS]
        if kinds:
            raise errors.wrapped_module(name, path, kinds[0])
    for path, parameter in module.named_parameters():
        if type(parameter.data).__name__ == "DTensor":
            raise errors.wrapped_module(name, path, "DTensor")
