"""What a linear solver is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metafunc import errors
from metafunc.plug import Plug
from metafunc.rule import Stats

Matvec = Callable[[Tensor], Tensor]


class LinearSolver(Plug, ABC):
    """Solves ``A x = b`` from products with ``A``.

    Laws: the solver runs under ``vmap`` and looks at no tensor's value from Python. It never raises on data: what it
    met is in ``stats``, each a scalar tensor: ``linear_steps`` (products used until it stopped),
    ``linear_residual`` (``||b - A x|| / ||b||``), ``negative_curvature`` and ``breakdown`` (booleans).
    """

    __slots__ = ()

    @abstractmethod
    def solve(self, matvec: Matvec, b: Tensor) -> tuple[Tensor, Stats]:
        """The solution for a flat ``b`` of shape ``[d]``, and the figures."""

    @property
    def symmetric_only(self) -> bool:
        """Whether the method is right for symmetric matrices alone."""
        return False


class Foreign(LinearSolver):
    """A function ``solve(matvec, b) -> x``, such as TorchOpt's solvers, as a linear solver."""

    __slots__ = ("fn",)

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def solve(self, matvec: Matvec, b: Tensor) -> tuple[Tensor, Stats]:
        """One call of the function, and one more product for the residual."""
        x = self.fn(matvec, b)
        return x, figures(torch.zeros_like(b.sum()), b, b - matvec(x))

    def __repr__(self) -> str:
        return getattr(self.fn, "__name__", repr(self.fn))


def as_solver(solver: Any) -> LinearSolver:
    """A linear solver from what a user may give as ``solver=``."""
    if isinstance(solver, LinearSolver):
        return solver
    if isinstance(solver, type) or not callable(solver):
        raise errors.not_a(
            "solver", "a linear solver such as CG(max_steps=5), or a function solve(matvec, b)", solver
        )
    return Foreign(solver)


def figures(steps: Tensor, b: Tensor, residual: Tensor) -> Stats:
    """The stats of a solve that can neither break down nor meet negative curvature."""
    no = torch.zeros((), dtype=torch.bool, device=b.device)
    return {
        "linear_steps": steps,
        "linear_residual": relative(residual.norm(), b.norm()),
        "negative_curvature": no,
        "breakdown": no.clone(),
    }


def relative(residual: Tensor, scale: Tensor) -> Tensor:
    """``residual / scale``, and the bare residual for a zero scale."""
    return residual / torch.where(scale > 0, scale, torch.ones_like(scale))


def check_limits(max_steps: int, rtol: float | None = None) -> None:
    """Raise unless a solver's limits make sense."""
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise errors.out_of_range("max_steps", max_steps, "an integer of at least 1", "e.g. max_steps=10")
    if rtol is not None and not 0 <= rtol < 1:
        raise errors.out_of_range("rtol", rtol, "a number in [0, 1)", "e.g. rtol=1e-6")
