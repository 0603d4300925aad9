"""Products with a matrix and with its transpose, on flat vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metafunc import errors, tree
from metafunc.autodiff import vjp
from metafunc.tree import Tree

Matvec = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Products:
    """``w -> A w`` on flat vectors.

    Attributes:
        apply: The product.
        unravel: From a flat vector to the tree that it stands for.
        mirror: Prepares the product with ``A^T``; ``None`` if ``A`` is symmetric.
    """

    apply: Matvec
    unravel: Callable[[Tensor], Tree]
    mirror: Callable[[], Matvec] | None

    def __call__(self, w: Tensor) -> Tensor:
        return self.apply(w)

    @property
    def transposed(self) -> Products:
        """``w -> A^T w``. Prepared anew each time it is asked for, at the cost of a linearisation: keep it."""
        if self.mirror is None:
            return self
        return Products(self.mirror(), self.unravel, lambda: self.apply)


def as_products(matvec: Matvec, b: Tensor) -> Products:
    """Products from any function ``w -> A w``, whose transpose is its own pull-back."""
    if isinstance(matvec, Products):
        return matvec
    return Products(matvec, lambda w: w, lambda: transpose(matvec, b))


def transpose(matvec: Matvec, like: Tensor) -> Matvec:
    """``w -> A^T w`` for a linear function ``w -> A w``."""
    _, pull = vjp(matvec, torch.zeros_like(like))
    return lambda w: pull(w)[0]


def flattened(apply: Callable[[Tree], Tree], unravel: Callable[[Tensor], Tree]) -> Matvec:
    """A function of trees as one of flat vectors."""
    return lambda w: tree.ravel(apply(unravel(w)))[0]


def products_with_all(matvec: Matvec, vectors: Tensor) -> Tensor:
    """``A w`` for every row ``w``, a row each: at once where torch can batch the product, else one by one.

    (The double backward of a convolution accumulates in place, which torch cannot batch in a cotangent alone.)
    """
    try:
        return torch.func.vmap(matvec)(vectors)
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
        return torch.stack([matvec(vector) for vector in vectors])


def unit_vectors(b: Tensor) -> Tensor:
    """The unit vectors, one in each row."""
    # Adding zeros like b makes them as batched as b is: a product with a vector that is not, inside a vmap, fails in
    # torch for convolutions. (Zeros of its own, since b may have infinities.)
    return torch.eye(b.numel(), dtype=b.dtype, device=b.device) + torch.zeros_like(b)


def check_like(name: str, expected: Tree, got: Tree) -> None:
    """Raise unless ``got`` is a tree like ``expected``: in nesting, shapes, dtypes and devices."""
    if tree.structure(got) != tree.structure(expected):
        raise errors.unlike_phi(name, tree.structure(expected), tree.structure(got))
    for path, want, leaf in zip(tree.paths(expected), tree.leaves(expected), tree.leaves(got), strict=True):
        if not isinstance(leaf, Tensor) or _kind(leaf) != _kind(want):
            raise errors.unlike_phi(f"{name} at {path}", want, leaf)


def _kind(leaf: Tensor) -> tuple[Any, ...]:
    return tuple(leaf.shape), leaf.dtype, leaf.device
