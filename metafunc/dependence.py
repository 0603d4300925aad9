"""Which leaves of its arguments a computation really depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from metafunc import errors, tree
from metafunc.autodiff import vjp
from metafunc.generators import undisturbed
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
    with undisturbed(args):
        out, pull = vjp(lambda a: [x for x in tree.leaves(fn(watch(a))) if tree.is_float(x)], args)
        pull([torch.ones_like(x) for x in out])
    return watch.touched


def reach_of_init(init: Callable[[Tree], Tree], args: Tree) -> list[bool]:
    """:func:`dependencies` of an initialisation, which most often hands on leaves of its arguments as they are."""
    place = {id(x): i for i, x in enumerate(tree.leaves(args)) if tree.is_float(x)}
    handed_on = [place.get(id(x)) for x in tree.leaves(init(args))]
    if None in handed_on:
        return dependencies(init, args)
    return [i in handed_on for i in range(len(tree.leaves(args)))]


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
    zero = tuple(i for i, (miss, feed) in enumerate(zip(missed, feeding, strict=True)) if miss and feed)
    if zero:
        path, leaf = tree.paths(args)[zero[0]], tree.leaves(args)[zero[0]]
        where = f"a captured tensor, {errors.describe(leaf)}," if path.startswith(".captured") else path
        raise errors.zero_by_construction(name, where, advice, zero)
