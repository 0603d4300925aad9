"""The pull-back of an implicit solve by somebody else's decorator, which knows nothing of ``torch.func``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from metafunc import autodiff, errors, tree
from metafunc.inner import Args, Gradient
from metafunc.linear import LinearSolver
from metafunc.linear.solver import Foreign
from metafunc.rule import Rule, Stats
from metafunc.tree import Tree


@dataclass(frozen=True, slots=True)
class Decorated(Rule):
    """From ``(args, phi, v)`` to the cotangent of ``args``, by a decorator like TorchOpt's ``custom_root``.

    TorchOpt's decorator works on plain tensors in eager mode only. A rule's forward pass sees just these, whatever
    transforms are around it, and over a batch of tasks it makes one system of the whole batch, with ``vmap`` inside.

    Attributes:
        residual: What is zero at the solution.
        root: ``root(optimality_fn, argnums=, solve=)``, a decorator for solvers.
        solver: The linear solver; a foreign one is handed on as it is.
        needs: The leaves of ``args`` whose cotangent is asked for.
        arrange: From the arguments as they come to those that ``residual`` takes.
    """

    residual: Gradient
    root: Callable[..., Any]
    solver: LinearSolver
    needs: Tree
    arrange: Callable[[Tree], Tree] = lambda args: args

    def forward(self, args: tuple[Args, Tree, Tree]) -> tuple[Tree, ...]:
        at, phi, v = self.arrange(args)
        flags, found, spec = tree.leaves(self.needs), tree.leaves(at), tree.structure(at)
        phi, v, found = tree.copied((phi, v, found))  # the decorator and its solver may work in place
        wanted = tuple(
            x.requires_grad_() for x, want in zip(found, flags, strict=True) if want and tree.is_float(x)
        )
        shape = tree.structure(phi)

        def optimality(solution: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            supply = iter(wanted)
            full = [
                next(supply) if want and tree.is_float(x) else x for x, want in zip(found, flags, strict=True)
            ]
            return tuple(tree.leaves(self.residual(tree.rebuild(shape, solution), tree.rebuild(spec, full))))

        def solver(_: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(tree.leaves(phi))

        with torch.enable_grad():
            solution = self.root(optimality, argnums=1, solve=self._solve)(solver)(
                tuple(tree.leaves(phi)), wanted
            )
            bars: Any = torch.autograd.grad(solution, wanted, tree.leaves(v), allow_unused=True)
        supply = iter(bars)
        return (
            tree.rebuild(
                spec,
                [
                    next(supply) if want and tree.is_float(x) else None
                    for x, want in zip(found, flags, strict=True)
                ],
            ),
        )

    def _solve(self, matvec: Callable[[Tree], Tree], b: Tree) -> Tree:
        if isinstance(self.solver, Foreign):
            return self.solver.fn(matvec, tree.map(torch.clone, b))
        flat, unravel = tree.ravel(b)
        return unravel(self.solver.solve(lambda w: tree.ravel(matvec(unravel(w)))[0], flat)[0])

    def mapped(self, dims: Tree, size: int, randomness: str) -> Rule:
        """One system of the whole batch. What the tasks share is repeated, so that each gets its own cotangent."""

        def arrange(args: Tree) -> Tree:
            stacked = tree.map(
                lambda x, d: (
                    x
                    if not isinstance(x, Tensor)
                    else x.expand(size, *x.shape)
                    if d is None
                    else x.movedim(d, 0)
                ),
                args,
                dims,
            )
            return autodiff.vmap(self.arrange, in_dims=(tree.axes(stacked),))(stacked)

        def residual(phi: Tree, at: Args) -> Tree:
            over = (tree.axes(phi), tree.axes(at))
            return autodiff.vmap(self.residual, in_dims=over, randomness=randomness)(phi, at)

        return replace(self, residual=residual, arrange=arrange)

    def pullback(self, args: Tree, out: Any, cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        raise errors.no_second_derivative("Implicit(root=...)")
