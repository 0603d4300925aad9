"""Vector-space algebra on pytrees of tensors; the only file that imports torch's private pytree.

A *tree* is any nesting of dicts, lists, tuples, named tuples and registered nodes whose leaves are tensors (or
plain Python values, which are carried along untouched). A *vector* is a tree whose leaves are all floating-point
tensors; the functions below give it sums, scalings and inner products, leaf by leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Tree: TypeAlias = Any
"""A pytree; Python has no type for "the same nesting with other leaves"."""

Scale: TypeAlias = Any
"""A float, a scalar tensor, or a tree of them shaped like the vector that it scales."""


def leaves(tree: Tree) -> list[Any]:
    """The leaves of ``tree`` in a fixed order."""
    return pytree.tree_leaves(tree)


def structure(tree: Tree) -> Any:
    """The nesting of ``tree`` without its leaves; comparable and able to rebuild a tree with :func:`rebuild`."""
    return pytree.tree_structure(tree)


def rebuild(spec: Any, values: Iterable[Any]) -> Tree:
    """The tree of nesting ``spec`` with ``values`` as leaves."""
    return pytree.tree_unflatten(list(values), spec)


def map(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """``fn`` applied leaf by leaf to trees of one nesting."""
    return pytree.tree_map(fn, tree, *rest)


def paths(tree: Tree) -> list[str]:
    """A readable name for every leaf, such as ``['conv']['weight']``; the empty path is written ``.``."""
    keyed, _ = pytree.tree_flatten_with_path(tree)
    return [pytree.keystr(path) or "." for path, _ in keyed]


def is_float(leaf: Any) -> bool:
    """Whether ``leaf`` is a tensor that a derivative can flow to."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A tree with its tensors taken out: its nesting, and its other leaves in their places."""

    spec: Any
    static: tuple[Any, ...]

    def fill(self, tensors: Iterable[Any]) -> Tree:
        """Put ``tensors`` (or anything that stands for them, one each) where the tensors were."""
        supply = iter(tensors)
        return rebuild(self.spec, [next(supply) if leaf is _HOLE else leaf for leaf in self.static])

    def fill_only(self, values: Iterable[Any], other: Any = None) -> Tree:
        """Like :meth:`fill`, with ``other`` in place of every leaf that is no tensor."""
        supply = iter(values)
        return rebuild(self.spec, [next(supply) if leaf is _HOLE else other for leaf in self.static])

    def pick(self, tree: Tree) -> list[Any]:
        """The leaves of a tree of this nesting that stand where the tensors were."""
        return [leaf for leaf, mark in zip(leaves(tree), self.static, strict=True) if mark is _HOLE]


class _Hole:
    __slots__ = ()


_HOLE = _Hole()


def take_tensors(tree: Tree) -> tuple[list[Tensor], Skeleton]:
    """Split ``tree`` into its tensors and the rest."""
    flat, spec = pytree.tree_flatten(tree)
    tensors = [leaf for leaf in flat if isinstance(leaf, Tensor)]
    return tensors, Skeleton(spec, tuple(_HOLE if isinstance(leaf, Tensor) else leaf for leaf in flat))


def add(x: Tree, y: Tree) -> Tree:
    """``x + y``."""
    return map(torch.add, x, y)


def sub(x: Tree, y: Tree) -> Tree:
    """``x - y``."""
    return map(torch.sub, x, y)


def neg(x: Tree) -> Tree:
    """``-x``."""
    return map(torch.neg, x)


def scale(factor: Scale, x: Tree) -> Tree:
    """``factor * x``, leaf by leaf where ``factor`` is a tree."""
    if isinstance(factor, int | float | Tensor):
        return map(lambda leaf: factor * leaf, x)
    return map(lambda f, leaf: f * leaf, factor, x)


def dot(x: Tree, y: Tree) -> Tensor:
    """The inner product ``<x, y>``, a scalar."""
    return torch.stack([(a * b).sum() for a, b in zip(leaves(x), leaves(y), strict=True)]).sum()


def norm(x: Tree) -> Tensor:
    """The Euclidean norm of all leaves together, a scalar."""
    return dot(x, x).sqrt()


def zeros_like(x: Tree) -> Tree:
    """The zero of the vector space of ``x``; leaves that are no tensors stay as they are."""
    return map(lambda leaf: torch.zeros_like(leaf) if isinstance(leaf, Tensor) else leaf, x)


def copied(x: Tree) -> Tree:
    """The same tensors in memory of their own, without a graph; what is no tensor stays."""
    return map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, x)


def stack(trees: list[Tree]) -> Tree:
    """One tree with a new leading axis from several of one nesting; ``None`` stays."""
    return map(lambda *slices: None if slices[0] is None else torch.stack(slices), *trees)


def cat(trees: list[Tree]) -> Tree:
    """One tree from several of one nesting, joined along their leading axes; ``None`` stays."""
    return map(lambda *parts: None if parts[0] is None else torch.cat(parts), *trees)


def index(tree: Tree, i: int | slice) -> Tree:
    """The tree of ``leaf[i]``; what is no tensor stays."""
    return map(lambda leaf: leaf[i] if isinstance(leaf, Tensor) else leaf, tree)


def repeat(tree: Tree, count: int) -> Tree:
    """The tree with a new leading axis along which every tensor repeats, without copies.

    For a ``vmap`` inside another: an argument left unbatched there makes operators such as ``mse_loss`` fail in
    torch 2.13.
    """
    return map(lambda leaf: leaf.expand(count, *leaf.shape) if isinstance(leaf, Tensor) else leaf, tree)


def axes(tree: Tree) -> Tree:
    """The ``in_dims`` of ``vmap`` that map the leading axis of every tensor."""
    return map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, tree)


def merge(new: Tree, old: Tree) -> Tree:
    """Leaf by leaf the sum of two cotangents, either of which may be ``None`` (no cotangent)."""
    return map(lambda a, b: a if b is None else b if a is None else a + b, new, old)


def ravel(x: Tree) -> tuple[Tensor, Callable[[Tensor], Tree]]:
    """The vector as one flat tensor, and the way back."""
    flat, spec = pytree.tree_flatten(x)
    sizes = [leaf.numel() for leaf in flat]

    def unravel(vector: Tensor) -> Tree:
        parts: tuple[Tensor, ...] = vector.split(sizes)  # pyright: ignore[reportUnknownVariableType]
        return rebuild(
            spec, [p.reshape(leaf.shape).to(leaf.dtype) for p, leaf in zip(parts, flat, strict=True)]
        )

    return torch.cat([leaf.reshape(-1) for leaf in flat]), unravel


def register_constant(kind: type) -> None:
    """Let instances of ``kind`` pass through ``torch.compile`` as constants, compared by identity."""
    pytree.register_constant(kind)
