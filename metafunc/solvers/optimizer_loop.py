"""Other libraries' optimizers as inner solvers: TorchOpt's functional ones as a path, torch's own as black boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from metafunc import autodiff, errors, tree
from metafunc.dependence import dependencies
from metafunc.inner import Args, Gradient, Inner, check_like, remembered
from metafunc.settings import Setting
from metafunc.solvers.adam import safe_sqrt
from metafunc.solvers.hidden import recalled
from metafunc.solvers.optimizer_state import States
from metafunc.solvers.problem import Problem, check_limits, problem
from metafunc.tree import Tree


@remembered
def optimizer_loop(
    loss: Callable[..., Tensor] | None = None,
    optimizer: Any = None,
    *,
    steps: int,
    prox: Setting = 0.0,
    weight_decay: Setting = 0.0,
    tolerance: float = 0.0,
    early_exit: bool = True,
    objective: Callable[..., Tensor] | None = None,
    init: Callable[[Tree], Tree] | None = None,
) -> Inner:
    """``steps`` steps of a given optimizer on a task's loss, from ``theta``.

    Args:
        loss: As for :func:`~metafunc.gradient_descent`.
        optimizer: One of two kinds.

            A functional optimizer, such as ``torchopt.adam(lr=0.01)`` or a ``torchopt.chain(...)``: an object with
            ``init(params) -> state`` and ``update(grads, state, params=, inplace=) -> (updates, state)``. Its steps
            are a path, for any estimator. Square roots in it get the derivative zero at zero, in place of an infinite
            one that turns into NaN (see :func:`~metafunc.adam`, which also has a learnable ``lr``).

            A function from a list of tensors to a ``torch.optim.Optimizer``, such as ``torch.optim.LBFGS`` itself or
            ``functools.partial(torch.optim.Adam, lr=0.01)``. It works in place, so it is a black box, for ``Implicit``
            and ``FiniteDifference``; under ``vmap`` it runs task by task.
        steps: ``K``, the number of steps.
        prox: As for :func:`~metafunc.gradient_descent`.
        weight_decay: As for :func:`~metafunc.gradient_descent`.
        tolerance: As for :func:`~metafunc.gradient_descent`.
        early_exit: As for :func:`~metafunc.gradient_descent`. A black box runs task by task, and looks at each.
        objective: As for :func:`~metafunc.gradient_descent`.
        init: As for :func:`~metafunc.gradient_descent`.

    Returns:
        An inner problem, to be wrapped in an estimator.

    Raises:
        TypeError: If the optimizer is of neither kind; when it is differentiated, if its update does not pass a
            derivative on from the gradients that it is given.
    """
    check_limits(steps, tolerance, early_exit)
    goal = problem("optimizer_loop", loss, objective, init, prox=prox, weight_decay=weight_decay)
    if all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        return _path(goal, optimizer, steps, tolerance, early_exit)
    if isinstance(optimizer, torch.optim.Optimizer) or not callable(optimizer):
        raise errors.not_an_optimizer(optimizer)
    return _black_box(goal, optimizer, steps, tolerance)


def _path(goal: Problem, optimizer: Any, steps: int, tolerance: float, early_exit: bool) -> Inner:
    proven: list[bool] = []
    states = States(optimizer, partial(safe_update, optimizer), steps)

    def step(gradient: Gradient, state: Tree, args: Args) -> Tree:
        phi, carried = state
        slope = gradient(phi, args)
        if not proven and autodiff.is_recording((phi, slope)):
            with recalled(states.hidden):
                _require_derivative(optimizer, phi)
            proven.append(True)
        updates, carried = states.next(slope, carried, phi)
        moved = tree.map(lambda x, u: x if u is None else x + u, phi, updates)
        check_like(moved, phi, "optimizer")
        return moved, carried

    return goal.inner(
        f"optimizer_loop(steps={steps})",
        steps=steps,
        step=step,
        begin=lambda phi: (phi, states.first(phi)),
        tolerance=tolerance,
        early_exit=early_exit,
    )


def _require_derivative(optimizer: Any, phi: Tree) -> None:
    """Raise unless the update depends differentiably on the gradient, tried on a gradient of ones."""

    def update(slope: Tree) -> Tree:
        return safe_update(optimizer, slope, optimizer.init(slope), slope)[0]

    with autodiff.trial(tree.map(torch.ones_like, phi)) as ones:
        if not all(dependencies(update, ones)):
            raise errors.update_without_derivative("it detaches the gradient, or replaces it")


def safe_update(optimizer: Any, slope: Tree, state: Tree, phi: Tree) -> tuple[Tree, Tree]:
    """One update of a functional optimizer, ``(updates, state)``, with a derivative wherever it has one."""
    with _Mended():
        try:
            return optimizer.update(slope, state, params=phi, inplace=False)
        except RuntimeError as error:
            if "autograd.Function" not in str(error):
                raise
            raise errors.update_without_derivative("it uses an operator that torch.func refuses") from error


class _Mended(TorchFunctionMode):
    """Operators of an update as derivatives and ``vmap`` need them."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _ROOTS:
            return safe_sqrt(args[0])
        if func in _READS:  # whatever is computed from it has lost its derivative
            raise errors.update_reads_values()
        if func is Tensor.addcmul_:  # which vmap would run task by task
            return args[0].copy_(torch.addcmul(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


_ROOTS = (torch.sqrt, Tensor.sqrt, Tensor.sqrt_)
_READS: tuple[Any, ...] = tuple(getattr(Tensor, name) for name in ("item", "tolist", "__float__", "__bool__"))


def _black_box(goal: Problem, make: Callable[[list[Tensor]], Any], steps: int, tolerance: float) -> Inner:
    def minimize(inner: Inner, start: Tree, args: Args) -> Tree:
        objective = inner.objective
        assert objective is not None
        at: Any = tree.copied(args)
        phi = tree.map(lambda x: x.requires_grad_(), tree.copied(start))
        leaves = tree.leaves(phi)

        def closure() -> Tensor:
            with torch.enable_grad():
                value = objective(phi, at)
                grads: Any = torch.autograd.grad(value, leaves, allow_unused=True)
            for leaf, slope in zip(leaves, grads, strict=True):
                leaf.grad = torch.zeros_like(leaf) if slope is None else slope
            return value.detach()

        optimizer = make(leaves)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise errors.not_an_optimizer(optimizer)
        step: Any = optimizer.step  # torch's type of a closure that returns a float is too narrow
        for _ in range(steps):
            if inner.tolerance and closure().isfinite() and _norm_of_grads(leaves) <= inner.tolerance:
                break
            step(closure)
        return tree.map(lambda x: x.detach(), phi)

    name = f"optimizer_loop(steps={steps})"
    return goal.inner(name, minimize=minimize, batchable=False, tolerance=tolerance)


def _norm_of_grads(leaves: list[Tensor]) -> float:
    return float(tree.norm([leaf.grad for leaf in leaves]))
