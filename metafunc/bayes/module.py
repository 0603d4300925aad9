"""The prior as a module, for optimizers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from metafunc.bayes.gaussian import Gaussian, prior


class Prior(nn.Module):
    """A Gaussian prior over the parameters of a module: means and log-variances are the meta-parameters.

    The means are the module's own parameters, so that an optimizer of it changes the module itself. To learn means
    alone, call ``prior.log_variance.requires_grad_(False)``.

    Args:
        module: Any module; parameters that do not require a gradient are not part of the prior.
        variance: The prior's variances to begin with, as for :func:`prior`.

    Attributes:
        module: The module.
        log_variance: Parameters in the order of the module's.

    Raises:
        TypeError, ValueError: As for :func:`prior`.

    Example:
        >>> prior = mf.bayes.Prior(net, variance=1e-3)
        >>> optimizer = torch.optim.Adam(prior.parameters(), lr=1e-3)
    """

    def __init__(self, module: nn.Module, variance: Any = 0.01) -> None:
        super().__init__()
        logs = prior(module, variance)["log_variance"]
        self.module = module
        self.log_variance = nn.ParameterList(logs.values())
        self._names = tuple(logs)

    @property
    def parts(self) -> dict[str, dict[str, nn.Parameter]]:
        """The parameters laid out like ``theta``."""
        named = dict(self.module.named_parameters())
        return {
            "mean": {name: named[name] for name in self._names},
            "log_variance": dict(zip(self._names, self.log_variance, strict=True)),
        }

    @property
    def theta(self) -> Gaussian:
        """The prior as a tree, detached; it shares the parameters' memory."""
        return {part: {name: p.detach() for name, p in named.items()} for part, named in self.parts.items()}

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The module's outputs at the prior's means."""
        return self.module(*args, **kwargs)
