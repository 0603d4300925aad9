"""A module that is cloned, and whose clones take gradient steps."""

from __future__ import annotations

from typing import Any

import torch.nn as nn
from torch import Tensor

from metafunc import errors, tree
from metafunc.autodiff import is_differentiated
from metafunc.estimator import Estimator
from metafunc.estimators import Binomial, Explicit, FirstOrder, Implicit, Truncated
from metafunc.imperative import Chain
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
        self._chain: Chain | None = None
        self._sums = False

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

    def _begin(self, rates: list[Any]) -> None:
        """Become a learner: with a copy of the module, and a chain of steps from its parameters."""
        rule = self.estimator or (FirstOrder() if self.first_order else Explicit())
        if any(map(is_differentiated, rates)) and _skips_rates(rule):
            raise rates_without_gradient(repr(rule))
        self.module = replica(self.module)
        own = slots(self.module)
        frozen = [slot.name for slot in own if not slot.get().requires_grad]
        if frozen and not self.allow_nograd:
            raise frozen_parameters(frozen)
        self._places = [slot for slot in own if slot.name not in frozen]
        if not self._places:
            raise errors.nothing_to_train(type(self.module).__name__)
        first = [slot.get() for slot in self._places]
        # The step of a first-order chain is a constant in the rates; what they have been multiplied by is its state.
        self._sums = isinstance(rule, FirstOrder)
        self._chain = Chain(first, rule, state=tree.zeros_like(first) if self._sums else None)
        fill(self._places, self._chain.params)

    def _step(self, loss: Tensor, rates: Any, first_order: bool | None, allow_unused: bool | None) -> None:
        if self._chain is None:
            raise not_a_clone(type(self).__name__)
        if first_order not in (None, self.first_order):
            raise fixed_at_clone(first_order)
        unused = self.allow_unused if allow_unused is None else allow_unused

        def update(grads: list[Tensor | None], params: list[Tensor], sums: Tree) -> tuple[list[Tensor], Tree]:
            without = [slot.name for slot, g in zip(self._places, grads, strict=True) if g is None]
            if without and not unused:
                raise unused_parameters(without)
            steps = zip(params, rates, grads, strict=True)
            moved = [p if g is None else p - r * g for p, r, g in steps]
            if sums is not None:
                sums = [s if g is None else s + g for s, g in zip(sums, grads, strict=True)]
            return moved, sums

        chain = self._chain
        chain.step(loss, update)
        params = chain.params
        if self._sums:
            learned = [r - r.detach() if isinstance(r, Tensor) else None for r in rates]
            trios = zip(params, learned, chain.state, strict=True)
            params = [p if zero is None else p - zero * s for p, zero, s in trios]
        fill(self._places, params)


def _skips_rates(rule: Estimator) -> bool:
    """Whether the estimator has no derivative in the rates of any step."""
    shallow = isinstance(rule, Truncated) and rule.depth == 0
    return shallow or isinstance(rule, Implicit) or (isinstance(rule, Binomial) and rule.order == 0)
