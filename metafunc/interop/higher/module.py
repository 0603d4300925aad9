"""A stateless module of higher's that reads its fast parameters from a chain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from metafunc.imperative import Chain
from metafunc.interop.errors import forgotten_weights, other_fast_weights


class Held:
    """What differs from higher: the parameters kept are the first and the last, and none come from outside."""

    _chain: Chain
    _first: list[Tensor]

    def parameters(self, recurse: bool = True, time: int | None = None) -> Iterator[Tensor]:
        """The fast parameters: those after the last step, or with ``time=0`` the initial ones."""
        if time not in (None, -1, 0, self._chain.steps):
            raise forgotten_weights(time, self._chain.steps)
        return iter(self._first if time == 0 else self._chain.params)

    @property
    def fast_params(self) -> list[Tensor]:
        """The fast parameters after the last step."""
        return self._chain.params

    @fast_params.setter
    def fast_params(self, value: Iterable[Tensor]) -> None:
        check_current(self._chain, value)

    @property
    def init_fast_params(self) -> list[Tensor]:
        """The initial fast parameters."""
        return self._first


def check_current(chain: Chain, params: Iterable[Tensor]) -> None:
    """Raise unless these are the parameters after the last step."""
    given = list(params)
    if len(given) != len(chain.params) or any(x is not y for x, y in zip(given, chain.params, strict=True)):
        raise other_fast_weights()


def hold(fmodel: Any, chain: Chain) -> None:
    """Let a module made by ``higher.monkeypatch`` read its parameters from ``chain``, which starts at them."""
    # Leaves get a `.grad`, and have to be the ones that are given out; else the gradient is that of what is used.
    given = fmodel.fast_params
    first = given if all(x.is_leaf for x in given) else chain.params
    object.__setattr__(fmodel, "_chain", chain)
    object.__setattr__(fmodel, "_first", first)
    object.__setattr__(fmodel, "_fast_params", None)
    kind = fmodel.__class__  # one that higher has made for this object alone
    for name in ("parameters", "fast_params", "init_fast_params"):
        setattr(kind, name, vars(Held)[name])
    fmodel.update_params(chain.params)
