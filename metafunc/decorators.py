"""Decorators that say what a user's own inner loop does, so that an estimator can be put around it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from metafunc import autodiff, errors, options, tree
from metafunc.dependence import dependencies
from metafunc.inner import Args, Gradient, Inner, check_like, from_theta, scalar
from metafunc.tree import Tree

Init = Callable[[Tree], Tree]
_INIT = "init(theta) -> phi"


def minimizes(
    objective: Callable[..., Tensor], *, init: Init | None = None
) -> Callable[[Callable[..., Tree]], Inner]:
    """Say that the decorated function returns ``argmin_phi objective(phi, theta, *data)``.

    The function may be anything: scipy, LBFGS, a loop with ``.item()``. It gets detached tensors, runs task by task
    under ``vmap``, and is never differentiated: an implicit estimator needs its result only.

    Args:
        objective: ``objective(phi, theta, *data) -> scalar``, twice differentiable at the solution.
        init: From ``theta`` to a tree that ``phi`` looks like. Default: ``phi`` looks like ``theta``.

    Raises:
        ValueError: At the call, if the function returns another tree, shape, dtype or device than announced.

    Example:
        >>> @mf.Implicit(mf.CG(max_steps=5))
        ... @mf.minimizes(objective)
        ... def adapt(theta, support): ...
    """
    options.function("minimizes", objective, "objective(phi, theta, *data) -> scalar")
    options.function("init", init, _INIT, optional=True)
    checked = scalar(objective, "objective")

    def decorate(fn: Callable[..., Tree]) -> Inner:
        options.function("minimizes", fn, "adapt(theta, *data) -> phi")
        return Inner(
            init=from_theta(init),
            objective=lambda phi, args: checked(phi, args.theta, *args.data),
            solve=lambda args: fn(args.theta, *args.data),
            batchable=False,
            recipe=_recipe(fn, partial(minimizes, objective, init=init)),
            name=_name(fn),
        )

    return _named(decorate, f"minimizes({_name(objective)})")


def solves(
    residual: Callable[..., Tree], *, init: Init | None = None, symmetric: bool = False
) -> Callable[[Callable[..., Tree]], Inner]:
    """Say that the decorated function returns a root ``phi`` of ``residual(phi, theta, *data) = 0``.

    Args:
        residual: ``residual(phi, theta, *data)``, a tree like ``phi``.
        init: From ``theta`` to a tree that ``phi`` looks like. Default: ``phi`` looks like ``theta``.
        symmetric: Whether the Jacobian of the residual in ``phi`` is known to be symmetric. If not (the default),
            solvers for symmetric systems such as ``CG`` are refused.

    Raises:
        ValueError: At the call, if the function returns another tree, shape, dtype or device than announced.
    """
    options.function("solves", residual, "residual(phi, theta, *data) -> like phi")
    options.function("init", init, _INIT, optional=True)
    options.boolean("symmetric", symmetric)

    def decorate(fn: Callable[..., Tree]) -> Inner:
        options.function("solves", fn, "adapt(theta, *data) -> phi")
        name = _name(fn)
        return Inner(
            init=from_theta(init),
            residual=_checked_residual(lambda phi, args: residual(phi, args.theta, *args.data), "residual"),
            symmetric=symmetric,
            solve=lambda args: fn(args.theta, *args.data),
            batchable=False,
            recipe=_recipe(fn, partial(solves, residual, init=init, symmetric=symmetric)),
            name=name,
        )

    return _named(decorate, f"solves({_name(residual)})")


def iterates(
    steps: int, *, init: Init | None = None, symmetric: bool = False
) -> Callable[[Callable[..., Tree]], Inner]:
    """Say that the decorated function is one step ``phi -> next phi`` of the inner loop, to be repeated.

    Under ``Implicit`` the limit of the iteration is meant, the root of ``phi - step(phi, theta, *data)``.

    Args:
        steps: ``K``, how often the step is repeated.
        init: From ``theta`` to the first ``phi``. Default: ``theta`` itself.
        symmetric: Whether the Jacobian of the step in ``phi`` is known to be symmetric, as for gradient descent.

    Raises:
        ValueError: If ``steps`` is not positive; at the call, if a step returns another tree, shape, dtype or device.
    """
    options.integer("steps", steps, 5)
    options.function("init", init, _INIT, optional=True)
    options.boolean("symmetric", symmetric)

    def decorate(fn: Callable[..., Tree]) -> Inner:
        options.function("iterates", fn, "step(phi, theta, *data) -> next phi")
        name, proven = _name(fn), list[bool]()

        def run(phi: Tree, args: Args) -> Tree:
            own = tree.map(torch.clone, phi)  # since it may work in place
            return fn(own, args.theta, *args.data)

        def advance(phi: Tree, args: Args) -> Tree:
            if not proven and autodiff.is_recording((phi, args)):
                _require_graph(run, phi, args, name)
                proven.append(True)
            after = run(phi, args)
            check_like(after, phi, name)
            return after

        return Inner(
            init=from_theta(init),
            residual=lambda phi, args: tree.sub(phi, advance(phi, args)),
            symmetric=symmetric,
            steps=steps,
            step=lambda _, state, args: (advance(state[0], args),),
            recipe=_recipe(fn, partial(iterates, steps, init=init, symmetric=symmetric)),
            name=name,
        )

    return _named(decorate, f"iterates({steps})")


def _checked_residual(residual: Gradient, name: str) -> Gradient:
    def checked(phi: Tree, args: Args) -> Tree:
        value = residual(phi, args)
        check_like(value, phi, name)
        return value

    return checked


def _require_graph(step: Gradient, phi: Tree, args: Args, name: str) -> None:
    """Raise if the outcome of a step changes with some leaf of ``phi`` of which it has no derivative."""
    with _apart((phi, args)) as (here, rest):
        try:
            reached = dependencies(lambda p: step(p, rest), here)
        except RuntimeError as error:
            raise errors.step_not_differentiable(name, str(error).splitlines()[0]) from error
    if all(reached):
        return
    outcomes: list[list[Tensor]] = []
    for shift in (0.0, 1.0):  # each with the same random numbers
        with _apart((phi, args)) as (here, rest):
            moved = [x if there else x + shift for x, there in zip(tree.leaves(here), reached, strict=True)]
            outcomes.append(tree.leaves(step(tree.rebuild(tree.structure(here), moved), rest)))
    if not all(map(_equal, *outcomes)):
        raise errors.step_without_graph(name, tree.paths(phi)[reached.index(False)])


@contextmanager
def _apart(args: Tree) -> Generator[Tree]:
    """A trial that those who watch the operators of a solve do not see."""
    unwatched: Any = getattr(torch._C, "DisableTorchFunction")  # noqa: B009  # pyright: ignore[reportPrivateUsage]
    with unwatched(), autodiff.trial(args) as at:
        yield at


def _equal(x: Tensor, y: Tensor) -> bool:
    return bool(((x == y) | (x.isnan() & y.isnan())).all())


def _name(fn: Callable[..., Any]) -> str:
    return getattr(fn, "__name__", type(fn).__name__)


def _recipe(
    fn: Callable[..., Any], declare: Callable[[], Callable[[Any], Inner]]
) -> Callable[[], Inner] | None:
    """How to declare the function again, by its name; ``None`` if that is known in no module."""
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "<none>")
    return None if module is None or "<" in name else partial(_declared, module, name, declare)


def _declared(module: str, name: str, declare: Callable[[], Callable[[Any], Inner]]) -> Inner:
    found = attrgetter(name)(import_module(module))
    # Where this was used as a decorator, the name is that of the outcome, perhaps with an estimator around it.
    known = getattr(found, "inner", found)
    return known if isinstance(known, Inner) else declare()(found)


def _named(decorate: Callable[..., Inner], name: str) -> Callable[..., Inner]:
    """The decorator under the name that errors call it by, where it is used without a function below."""
    decorate.__name__ = name
    return decorate
