"""What a linear solver is."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metafunc import errors, options
from metafunc.inner import Inner, relative
from metafunc.linear.products import Matvec
from metafunc.plug import Plug
from metafunc.rule import Stats


class LinearSolver(Plug, ABC):
    """Solves ``A x = b`` from products with ``A``.

    Laws: the solver runs under ``vmap``, where each system of a batch is treated as if it were alone; from Python it
    looks at nothing but whether all systems are done, and not even at that with ``early_exit=False``. It never raises
    on data, and ``x`` is finite: what it met is in ``stats``, each a scalar tensor:

    - ``linear_steps``: steps taken until it stopped.
    - ``linear_residual``: ``||b - (A + damping I) x|| / ||b||``, and never below what rounding lets one know of it.
    - ``negative_curvature``: it met ``p^T A p <= 0`` (to working precision) and cannot use such a direction.
    - ``breakdown``: something was not finite, or singular, and it stopped there.
    - ``asymmetric``: it is for symmetric matrices, and ``A`` showed that it is none.
    """

    __slots__ = ()

    @abstractmethod
    def solve(self, matvec: Matvec, b: Tensor, x0: Tensor | None = None) -> tuple[Tensor, Stats]:
        """The solution for a flat ``b`` of shape ``[d]``, found from ``x0`` (default: zero), and the figures.

        ``matvec`` is any function ``w -> A w``, or :class:`Products`, which know their transpose.
        """

    @property
    def symmetric_only(self) -> bool:
        """Whether the method is right for symmetric matrices alone."""
        return False

    @property
    def transposed(self) -> LinearSolver:
        """The solver for the system with ``A^T``: itself, with its preconditioner transposed if it has one."""
        return self

    @property
    def tikhonov(self) -> float:
        """The ``c`` of a solver whose ``x`` minimises ``||b - A x||^2 + c ||x||^2``, which is the root of no ``A``."""
        return 0.0


class Foreign(LinearSolver):
    """A function ``solve(matvec, b) -> x``, such as TorchOpt's solvers, as a linear solver.

    It is given ``init=x0`` too, if it takes that. What it raises is left to it; what it returns that is not finite is
    flagged and replaced by zeros.
    """

    __slots__ = ("_takes_start", "fn")

    def __init__(self, fn: Callable[..., Any]) -> None:
        options.function("fn", fn, "solve(matvec, b) -> x")
        self.fn = fn
        self._takes_start = "init" in _parameters(fn)

    def solve(self, matvec: Matvec, b: Tensor, x0: Tensor | None = None) -> tuple[Tensor, Stats]:
        """One call of the function, and one more product for the residual."""
        # Copies, since it may work in place, and a product with the identity may be the vector itself.
        start = {} if x0 is None or not self._takes_start else {"init": x0.clone()}
        x = self.fn(lambda w: matvec(w).clone(), b.clone(), **start)
        x, broken = finite(x)
        return x, figures(torch.zeros_like(b.sum()), residual_of(matvec, b, x), breakdown=broken)

    def __repr__(self) -> str:
        return getattr(self.fn, "__name__", repr(self.fn))


def _parameters(fn: Callable[..., Any]) -> Any:
    try:
        return inspect.signature(fn).parameters
    except (TypeError, ValueError):  # some built-in functions have none
        return ()


def as_solver(solver: Any) -> LinearSolver:
    """A linear solver from what a user may give as ``solver=``."""
    if isinstance(solver, LinearSolver):
        return solver
    if isinstance(solver, type | Inner | Plug) or not callable(solver):
        raise errors.not_a(
            "solver", "a linear solver such as CG(max_steps=5), or a function solve(matvec, b)", solver
        )
    return Foreign(solver)


def figures(steps: Tensor, residual: Tensor, **flags: Tensor) -> Stats:
    """The stats of a solve; the flags that are not given are down."""
    down = {name: torch.zeros_like(residual, dtype=torch.bool) for name in FLAGS}
    return {"linear_steps": steps, "linear_residual": residual} | down | flags


FLAGS = ("negative_curvature", "breakdown", "asymmetric")


def finite(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x``, or zeros if any of it is not finite, and whether that was so."""
    broken = ~torch.isfinite(x).all()
    return torch.where(broken, torch.zeros_like(x), x), broken


def length(x: Tensor) -> Tensor:
    """The Euclidean norm, with a type."""
    return (x @ x).sqrt()


def residual_of(matvec: Matvec, b: Tensor, x: Tensor) -> Tensor:
    """``||b - A x|| / ||b||``, and the bare residual if ``b`` is zero, by one product."""
    # Both are divided by the largest entry first, since squares of very small numbers vanish.
    peak = b.abs().amax()
    peak = torch.where(peak > 0, peak, torch.ones_like(peak))
    return relative(length((b - matvec(x)) / peak), length(b / peak))


def check_limits(max_steps: int, rtol: float, damping: float, early_exit: bool) -> None:
    """Raise unless a solver's limits make sense."""
    options.integer("max_steps", max_steps, 10)
    options.number("rtol", rtol, 1e-6, high=1.0)
    options.number("damping", damping, 0.1)
    options.boolean("early_exit", early_exit)
