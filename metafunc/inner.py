"""The inner problem and how it is solved: objective, initialisation, and a path of steps or a black box.

An :class:`Inner` says everything an estimator may want to know about ``adapt``: what it minimises (or which residual
it brings to zero), where it starts, and either the step that it repeats or the code that solves it in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metafunc import autodiff, errors, tree
from metafunc.rule import Handle, Rule, Stats, call
from metafunc.tree import Tree


class Args(NamedTuple):
    """Everything that an inner solve depends on; gradients flow to every floating leaf of it."""

    theta: Tree
    data: tuple[Tree, ...]
    hyper: Tree  # tensors given when the solver was declared, such as a learned ``lr``


Objective = Callable[[Tree, Args], Tensor]
Gradient = Callable[[Tree, Args], Tree]
"""From ``(phi, args)`` to the gradient of the objective in ``phi``."""


@dataclass(frozen=True, slots=True, eq=False)
class Inner:
    """An inner problem with its solver. Calling it solves it; a derivative takes an estimator around it.

    Attributes:
        init: From the arguments to the first ``phi``. Every ``phi`` has its tree, shapes, dtype and device.
        objective: What the solver minimises over its first argument, or ``None``.
        residual: What the solver brings to zero, like ``phi``, or ``None``. For an objective it is the gradient.
        symmetric: Whether the Jacobian of the residual in ``phi`` is symmetric.
        steps: ``K``, the number of steps; 0 for a black box.
        step: One step ``(gradient, state, args) -> state`` from the solver's state to the next, or ``None``.
        begin: From the first ``phi`` to the solver's first state, a tree whose first child is ``phi``.
        solve: A black box ``args -> phi``, or ``None``.
        settings: What ``step`` reads beside gradient and state (``lr`` and the like): a reader for each name.
        hyper: The tensors among these settings that were given as they are; see :class:`Args`.
        free: Whether the objective is known not to depend on ``theta``.
        functions: The user's functions, which must not capture a tensor that is being differentiated.
        name: What errors call this solver.
    """

    init: Callable[[Args], Tree]
    objective: Objective | None = None
    residual: Gradient | None = None
    symmetric: bool = True
    steps: int = 0
    step: Callable[[Gradient, Tree, Args], Tree] | None = None
    begin: Callable[[Tree], tuple[Tree, ...]] = lambda phi: (phi,)
    solve: Callable[[Args], Tree] | None = None
    settings: Mapping[str, Callable[[Args], Any]] = field(default_factory=dict[str, Callable[[Args], Any]])
    hyper: Tree = ()
    free: bool = False
    functions: tuple[Any, ...] = ()
    name: str = "inner"

    def args(self, theta: Tree, data: tuple[Tree, ...]) -> Args:
        """The checked arguments of one solve."""
        args = Args(theta, data, self.hyper)
        first = self.init(args)
        check_parameters(first, "theta" if first is theta else "init(theta)")
        return args

    def inputs(self, args: Args) -> Tree:
        """What the path depends on beside the objective: its start and its settings."""
        return self.init(args), {name: read(args) for name, read in self.settings.items()}

    def slope(self, phi: Tree, args: Args) -> Tree:
        """What vanishes at the solution: the residual, or the gradient of the objective."""
        return (
            plain_gradient(self.objective)(phi, args) if self.residual is None else self.residual(phi, args)
        )

    def __call__(self, theta: Tree, *data: Tree) -> Tree:
        """Solve. The solution has no derivative: that is for an estimator to say."""
        return call(Handle(Bare(self)), self.args(theta, data))[0]


def solve_with(inner: Inner, args: Args) -> Tree:
    """``phi``, by the inner problem's own solver."""
    if inner.step is None:
        return _black_box(inner, args)
    state, gradient = inner.begin(inner.init(args)), plain_gradient(inner.objective)
    for _ in range(inner.steps):
        state = inner.step(gradient, state, args)
    return state[0]


def _black_box(inner: Inner, args: Args) -> Tree:
    assert inner.solve is not None
    detached = tree.map(lambda x: x.detach() if isinstance(x, Tensor) else x, args)
    with torch.enable_grad():  # the user's code may want to call backward()
        phi = inner.solve(detached)
    check_like(phi, inner.init(detached), inner.name)
    return tree.map(lambda x: x.detach(), phi)


def plain_gradient(objective: Objective | None) -> Gradient:
    """The gradient of an objective as torch differentiates it."""

    def gradient(phi: Tree, args: Args) -> Tree:
        if objective is None:
            raise errors.no_objective()
        return autodiff.grad(objective, phi, args)

    return gradient


@dataclass(frozen=True, slots=True)
class Bare(Rule):
    """A solve without an estimator: it has no derivative. A black box runs task by task under ``vmap``."""

    inner: Inner

    @property
    def batchable(self) -> bool:
        return self.inner.solve is None

    def forward(self, args: Args) -> tuple[Tree, ...]:
        return (solve_with(self.inner, args),)

    def pullback(self, args: Tree, out: Any, cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        raise errors.no_estimator(self.inner.name)

    def pushforward(self, args: Tree, out: Any, tangent: Tree) -> tuple[Tree, ...]:
        raise errors.no_estimator(self.inner.name)


def check_parameters(params: Tree, name: str) -> None:
    """Raise unless ``params`` is a non-empty tree of floating-point tensors."""
    found = tree.leaves(params)
    if not found:
        raise errors.empty_parameters(name)
    for path, leaf in zip(tree.paths(params), found, strict=True):
        if not tree.is_float(leaf):
            raise errors.not_floating(name, path, leaf)


def check_like(phi: Tree, like: Tree, name: str) -> None:
    """Raise unless ``phi`` has the tree, shapes, dtypes and devices of ``like``."""
    if tree.structure(phi) != tree.structure(like):
        raise errors.other_structure(name, tree.structure(like), tree.structure(phi))
    for path, x, y in zip(tree.paths(like), tree.leaves(phi), tree.leaves(like), strict=True):
        if not isinstance(x, Tensor) or (x.shape, x.dtype, x.device) != (y.shape, y.dtype, y.device):
            raise errors.other_leaf(name, path, y, x)


def scalar(objective: Callable[..., Any], name: str) -> Callable[..., Tensor]:
    """The function, made to raise where it returns anything but a scalar tensor."""

    def checked(*args: Tree) -> Tensor:
        value = objective(*args)
        if not isinstance(value, Tensor) or value.ndim != 0:
            raise errors.not_scalar(name, value)
        return value

    return checked


def from_theta(init: Callable[[Tree], Tree] | None) -> Callable[[Args], Tree]:
    """An ``init=`` option as a function of the arguments; by default ``phi`` starts at ``theta`` itself."""
    return (lambda args: args.theta) if init is None else (lambda args: init(args.theta))
