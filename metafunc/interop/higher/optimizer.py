"""A differentiable optimizer of higher's whose steps a chain takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from torch import Tensor

from metafunc.imperative import Chain, State, marked
from metafunc.imperative.reach import check_loss, edges
from metafunc.imperative.record import no_recomputation
from metafunc.interop.higher.module import check_current

Callback = Callable[[list[Tensor | None]], list[Tensor | None]]


class Followed:
    """What differs from higher: the chain takes the gradient and carries the state; the update is higher's own."""

    _chain: Chain
    _fmodel: Any
    _grad_callback: Callback | None
    _group_to_param_list: list[list[int]]
    _apply_override: Callable[[dict[str, list[Any]]], None]
    _update: Callable[[list[list[Tensor | None]]], None]
    param_groups: list[dict[str, Any]]
    state: State

    def step(
        self,
        loss: Tensor,
        params: Iterable[Tensor] | None = None,
        override: dict[str, list[Any]] | None = None,
        grad_callback: Callback | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """One step; the arguments and the result are those of ``higher.optim.DifferentiableOptimizer.step``."""
        if params is not None:
            check_current(self._chain, params)
        if override is not None:
            self._apply_override(override)
        callback = grad_callback or self._grad_callback

        def update(
            grads: list[Tensor | None], points: list[Tensor], state: State
        ) -> tuple[list[Tensor], State]:
            self.state = state
            return self._updated(grads if callback is None else callback(grads), points), self.state

        self._chain.step(loss, update)
        self.state = self._chain.state
        self._fmodel.update_params(self._chain.params)
        return self._chain.params[:]

    def _updated(self, grads: list[Tensor | None], points: list[Tensor]) -> list[Tensor]:
        groups = list(zip(self.param_groups, self._group_to_param_list, strict=True))
        for group, places in groups:
            group["params"] = [points[i] for i in places]
        self._update([[grads[i] for i in places] for _, places in groups])
        new = points[:]
        for group, places in groups:
            for i, x in zip(places, group["params"], strict=True):
                new[i] = x
            group["params"] = [None] * len(places)
        return new


class Plain:
    """What differs from higher where plain autograd is the rule: checkpoints are refused, and other loops are told."""

    _fmodel: Any

    def step(self, loss: Tensor, params: Iterable[Tensor] | None = None, **kwargs: Any) -> list[Tensor]:
        """One step; the arguments and the result are those of ``higher.optim.DifferentiableOptimizer.step``."""
        now = list(self._fmodel.fast_params if params is None else params)
        at = [x for x in now if x.requires_grad]
        step: Any = getattr(super(), "step")  # noqa: B009  (of higher's class, which comes next)
        check_loss(loss, edges(at), curved=False)
        with no_recomputation([loss], at):
            new = marked(step(loss, None if params is None else now, **kwargs))
        self._fmodel._fast_params.pop()  # higher keeps the parameters after every step
        self._fmodel.update_params(new)
        return new


def followed(diffopt: Any, chain: Chain) -> Any:
    """An optimizer made by ``higher.get_diff_optim``, with its steps taken by ``chain``."""
    chain.state = diffopt.state
    return _derived(diffopt, Followed, _chain=chain)


def plain(diffopt: Any) -> Any:
    """An optimizer made by ``higher.get_diff_optim``, which refuses what plain autograd would get wrong."""
    return _derived(diffopt, Plain)


def _derived(diffopt: Any, mixin: type, **more: Any) -> Any:
    new = object.__new__(_kind(mixin, type(diffopt)))
    vars(new).update(vars(diffopt), **more)
    return new


@cache  # a class is in cycles with itself: one for every loop would be left to the garbage collector
def _kind(mixin: type, kind: type) -> Any:
    return type(kind.__name__, (mixin, kind), {})
