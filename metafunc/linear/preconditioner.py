"""Approximate inverses that let a solver need fewer steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metafunc import errors, options, tree
from metafunc.linear.products import Products, check_like, products_with_all, transpose, unit_vectors
from metafunc.plug import Plug
from metafunc.tree import Tree


class Preconditioner(Plug, ABC):
    """A linear map ``M`` that approximates ``A^-1``; the solution does not depend on it, the steps do."""

    __slots__ = ()

    @abstractmethod
    def prepare(self, products: Products, b: Tensor, damping: float) -> Products:
        """``w -> M w`` for the system with the matrix ``A + damping I``."""

    @property
    def transposed(self) -> Preconditioner:
        """The preconditioner of the system with ``A^T``."""
        return self


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Diagonal(Preconditioner):
    """Division by an approximation of the diagonal of ``A``, to which the solver's damping is added.

    Attributes:
        of: A tree like ``phi``. Where it is zero, so is the outcome.

    Raises:
        TypeError: If it is no tree of floating-point tensors.
        ValueError: At the solve, if it is no tree like the right-hand side.
    """

    of: Tree

    def __post_init__(self) -> None:
        if not tree.leaves(self.of) or not all(map(tree.is_float, tree.leaves(self.of))):
            raise errors.not_a("of", "a tree of floating-point tensors like phi", self.of)

    def prepare(self, products: Products, b: Tensor, damping: float) -> Products:
        """See :class:`Diagonal`."""
        check_like("preconditioner", products.unravel(b), self.of)
        return _division(tree.ravel(self.of)[0] + damping, products)

    def __repr__(self) -> str:
        return f"Diagonal({', '.join(errors.describe(leaf).split(' on ')[0] for leaf in tree.leaves(self.of)[:3])})"


@dataclass(frozen=True, slots=True, repr=False)
class Jacobi(Preconditioner):
    """Division by the diagonal of ``A``, taken without its signs and never zero.

    Maths: ``diag(A) = E[v * (A v)]`` over vectors ``v`` of random signs; with unit vectors in their place it is exact.

    Source: Bekas, Kokiopoulou and Saad 2007.

    Cost: ``d`` or ``probes`` products before every solve, run as one ``vmap``.

    Attributes:
        probes: The number of random vectors. Default: the ``d`` unit vectors.
        seed: Of the random signs.

    Raises:
        ValueError: If ``probes`` is out of range.
    """

    probes: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        options.integer("probes", self.probes, 20, optional=True)
        options.integer("seed", self.seed, 0, low=0)

    def prepare(self, products: Products, b: Tensor, damping: float) -> Products:
        """See :class:`Jacobi`."""
        vectors = unit_vectors(b) if self.probes is None else self._signs(self.probes, b)
        weights = vectors.shape[0] if self.probes is not None else 1
        diagonal = (vectors * products_with_all(products, vectors)).sum(0).abs() / weights
        # An entry that rounding could have made says nothing.
        known = diagonal > torch.finfo(b.dtype).eps * diagonal.amax()
        return _division(torch.where(known, diagonal, diagonal.amax()) + damping, products)

    def _signs(self, probes: int, b: Tensor) -> Tensor:
        # numpy's, since torch's random functions are refused or changed by vmap.
        signs = np.random.default_rng(self.seed).integers(0, 2, (probes, b.numel())) * 2.0 - 1.0
        return torch.from_numpy(signs).to(b, non_blocking=True) + torch.zeros_like(b)


@dataclass(frozen=True, slots=True, repr=False)
class Function(Preconditioner):
    """A linear function from a tree like ``phi`` to another.

    Attributes:
        fn: The function.
        mirrored: Whether its transpose, formed by ``vjp``, is meant.

    Raises:
        ValueError: At the solve, if it does not return a tree like the right-hand side (one call is made to see).
    """

    fn: Callable[[Tree], Tree]
    mirrored: bool = False

    def __post_init__(self) -> None:
        options.function("fn", self.fn, "from a tree like phi to another")
        options.boolean("mirrored", self.mirrored)

    def prepare(self, products: Products, b: Tensor, damping: float) -> Products:
        """See :class:`Function`."""

        def preconditioned(w: Tensor) -> Tree:
            return self.fn(tree.map(torch.clone, products.unravel(w)))  # copies: it may work in place

        def apply(w: Tensor) -> Tensor:
            return tree.ravel(preconditioned(w))[0]

        check_like("outcome of the preconditioner", products.unravel(b), preconditioned(b))

        found = Products(apply, products.unravel, lambda: transpose(apply, b))
        return found.transposed if self.mirrored else found

    @property
    def transposed(self) -> Preconditioner:
        """See :class:`Preconditioner`."""
        return Function(self.fn, not self.mirrored)

    def __repr__(self) -> str:
        return getattr(self.fn, "__name__", repr(self.fn)) + (".transposed" if self.mirrored else "")


def _division(by: Tensor, products: Products) -> Products:
    usable = by != 0
    inverse = torch.where(usable, 1 / torch.where(usable, by, torch.ones_like(by)), torch.zeros_like(by))
    return Products(lambda w: inverse * w, products.unravel, None)


def as_preconditioner(given: Any) -> Preconditioner | None:
    """A preconditioner from what a user may give as ``preconditioner=``."""
    if given is None or isinstance(given, Preconditioner):
        return given
    if callable(given) and not isinstance(given, type):
        return Function(given)
    if isinstance(given, type) or not tree.leaves(given) or not all(map(tree.is_float, tree.leaves(given))):
        raise errors.not_a(
            "preconditioner",
            "None, the diagonal of the matrix as a tree like phi, Jacobi(), or a function from such a tree to another",
            given,
        )
    return Diagonal(given)


def prepare(given: Any, products: Products, b: Tensor, damping: float) -> Products:
    """``w -> M w``, the identity if there is no preconditioner."""
    chosen = as_preconditioner(given)
    if chosen is None:
        return Products(_same, products.unravel, None)
    return chosen.prepare(products, b, damping)


def mirrored(given: Any) -> Preconditioner | None:
    """The preconditioner of the transposed system."""
    chosen = as_preconditioner(given)
    return None if chosen is None else chosen.transposed


def _same(w: Tensor) -> Tensor:
    return w
