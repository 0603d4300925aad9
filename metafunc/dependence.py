"""Which leaves of its arguments a computation really depends on, and which tensors it has captured on the side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from metafunc import errors, tree
from metafunc.autodiff import is_differentiated, vjp
from metafunc.rule import Handle, Rule, Stats, call
from metafunc.tree import Tree


class Watch:
    """Notes through which leaves of some arguments a cotangent passes.

    A zero cotangent says nothing of whether it is zero by construction or by chance; this tells the two apart.
    """

    def __init__(self, args: Tree) -> None:
        self.touched: list[bool] = [False] * len(tree.leaves(args))

    def __call__(self, args: Tree) -> Tree:
        """The same arguments, observed."""
        marked = [
            call(Handle(_Mark(self.touched, i)), x)[0] if tree.is_float(x) else x
            for i, x in enumerate(tree.leaves(args))
        ]
        return tree.rebuild(tree.structure(args), marked)


@dataclass(frozen=True, slots=True, eq=False)
class _Mark(Rule):
    touched: list[bool]
    i: int

    def forward(self, args: Tree) -> tuple[Tree, ...]:
        return (args,)

    def pullback(self, args: Tree, out: Any, cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        self.touched[self.i] = True
        return cotangent[0], {}

    def pushforward(self, args: Tree, out: Any, tangent: Tree) -> tuple[Tree, ...]:
        return (tangent,)


def dependencies(fn: Callable[[Tree], Any], args: Tree) -> list[bool]:
    """For every leaf of ``args``, whether ``fn(args)`` depends on it differentiably."""
    watch = Watch(args)
    out, pull = vjp(lambda a: [x for x in tree.leaves(fn(watch(a))) if tree.is_float(x)], args)
    pull([torch.ones_like(x) for x in out])
    return watch.touched


def require_reach(
    name: str, advice: str, feeds: Callable[[Tree], Any], reached: list[bool], args: Tree, needs: Tree
) -> None:
    """Raise if a gradient is asked for at a leaf that feeds the solve and that the estimator cannot reach.

    Args:
        name: The estimator, for the message.
        advice: What to use instead, for the message.
        feeds: What the solve computes from the arguments; called only if some wanted leaf is not reached.
        reached: The leaves that the estimator's gradient passes through.
        args: The arguments.
        needs: The leaves whose gradient is asked for.
    """
    missed = [bool(want) and not got for want, got in zip(tree.leaves(needs), reached, strict=True)]
    if not any(missed):
        return
    feeding = dependencies(feeds, args)
    for path, miss, feed in zip(tree.paths(args), missed, feeding, strict=True):
        if miss and feed:
            raise errors.zero_by_construction(name, path, advice)


def refuse_captured(*functions: Any) -> None:
    """Raise if a function has captured a tensor that is being differentiated.

    A derivative rule sees arguments only: a tensor that comes in by a closure or a global would silently get no
    gradient. (torch.compile cannot trace a look into closures; there the eager call has to find it.)
    """
    if torch.compiler.is_compiling():
        return
    for fn in functions:
        for name, value in _captured(fn):
            if is_differentiated(value):
                raise errors.captured(getattr(fn, "__name__", repr(fn)), name)


def _captured(fn: Any) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(fn, FunctionType):
        return
    cells = zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True)
    found = {name: cell.cell_contents for name, cell in cells if not _is_empty(cell)}
    found |= {name: fn.__globals__[name] for name in fn.__code__.co_names if name in fn.__globals__}
    for name, value in found.items():
        if isinstance(value, Tensor):
            yield name, value


def _is_empty(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return True
    return False
