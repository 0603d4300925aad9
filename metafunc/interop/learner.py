"""A module that is cloned, and whose clones take gradient steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch.nn as nn
from torch import Tensor

from metafunc import errors
from metafunc.autodiff import is_differentiated
from metafunc.estimator import Estimator
from metafunc.estimators import Explicit, FirstOrder
from metafunc.imperative import Chain, marked
from metafunc.interop.errors import (
    fixed_at_clone,
    frozen_parameters,
    not_a_clone,
    rates_without_gradient,
    two_estimators,
    unused_parameters,
)
from metafunc.interop.modules import Slot, fill, replica, slots
from metafunc.tree import Tree


class Learner(nn.Module):
    """A module that is cloned, and whose clones adapt."""

    def __init__(
        self, model: nn.Module, first_order: bool, allow_unused: bool, allow_nograd: bool, estimator: Any
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise errors.not_a("model", "an nn.Module", model)
        if estimator is not None and not isinstance(estimator, Estimator):
            raise errors.not_a("estimator", "an estimator such as mf.Explicit()", estimator)
        if first_order and not isinstance(estimator, FirstOrder | None):
            raise two_estimators(repr(estimator))
        Chain([], estimator or Explicit())  # raises for an estimator that cannot serve
        self.module = model
        self.first_order = first_order
        self.allow_unused = allow_unused
        self.allow_nograd = allow_nograd
        self.estimator = estimator
        self._places: list[Slot] = []
        self._frozen: list[str] = []
        self._chain: Chain | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own, with the parameters as they are now."""
        return self.module(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """What the learner does not have is the module's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "module":
                raise
            return getattr(self.module, name)

    def _begin(self, rates: Iterable[Any], training: bool) -> None:
        """Become a learner: with a copy of the module, and a chain of steps from its parameters."""
        self.module = replica(self.module)
        self.training = training  # of the learner alone: the copy has the modes of the module
        own = slots(self.module)
        self._places = [slot for slot in own if slot.get().requires_grad]
        self._frozen = [slot.name for slot in own if not slot.get().requires_grad]
        if not self._places:
            raise errors.nothing_to_train(type(self.module).__name__)
        rule = self.estimator or (FirstOrder() if self.first_order else Explicit())
        self._chain = Chain(marked([slot.get() for slot in self._places]), rule)
        if any(map(is_differentiated, rates)) and not self._chain.moves:
            raise rates_without_gradient(repr(rule))
        fill(self._places, self._chain.params)

    def _step(
        self,
        loss: Tensor,
        rates: Sequence[Any],
        first_order: bool | None,
        allow_unused: bool | None,
        allow_nograd: bool | None,
    ) -> None:
        if self._chain is None:
            raise not_a_clone(type(self).__name__)
        if first_order not in (None, self.first_order):
            raise fixed_at_clone(first_order)
        if self._frozen and not (self.allow_nograd if allow_nograd is None else allow_nograd):
            raise frozen_parameters(self._frozen)
        names = [slot.name for slot in self._places]
        unused = self.allow_unused if allow_unused is None else allow_unused

        def update(grads: list[Tensor | None], params: list[Tensor], _: Tree) -> tuple[list[Tensor], Tree]:
            without = [name for name, g in zip(names, grads, strict=True) if g is None]
            if without and not unused:
                raise unused_parameters(without)
            steps = zip(params, rates, grads, strict=True)
            return [p if g is None else p - r * g for p, r, g in steps], None

        self._chain.step(loss, update)
        fill(self._places, self._chain.params)
