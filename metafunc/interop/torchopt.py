"""TorchOpt's ``custom_root`` and ``clip_grad_norm``, composing with every ``torch.func`` transform, and its imperative
differentiable optimizers, for every estimator.

``import metafunc.interop.torchopt as torchopt`` has all names of TorchOpt 0.7.3. Where no estimator plays a part they
are those of the installed library (``pip install 'metafunc[torchopt]'``), which is loaded when one of them is used.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metafunc import autodiff, errors, options, tree
from metafunc.captured import Captured, Closure, Uncaptured
from metafunc.captured import call as call_with
from metafunc.estimators import Implicit
from metafunc.inner import Args, Bound, Inner
from metafunc.interop.errors import (
    no_pair,
    not_a_solution,
    nothing_to_differentiate,
    other_residual,
    other_signature,
    uneven_aux,
)
from metafunc.interop.library import TORCHOPT
from metafunc.interop.torchopt_base import MetaOptimizer as MetaOptimizer
from metafunc.interop.torchopt_meta import MetaAdaDelta as MetaAdaDelta
from metafunc.interop.torchopt_meta import MetaAdadelta as MetaAdadelta
from metafunc.interop.torchopt_meta import MetaAdaGrad as MetaAdaGrad
from metafunc.interop.torchopt_meta import MetaAdagrad as MetaAdagrad
from metafunc.interop.torchopt_meta import MetaAdam as MetaAdam
from metafunc.interop.torchopt_meta import MetaAdaMax as MetaAdaMax
from metafunc.interop.torchopt_meta import MetaAdamax as MetaAdamax
from metafunc.interop.torchopt_meta import MetaAdamW as MetaAdamW
from metafunc.interop.torchopt_meta import MetaRAdam as MetaRAdam
from metafunc.interop.torchopt_meta import MetaRMSProp as MetaRMSProp
from metafunc.interop.torchopt_meta import MetaRMSprop as MetaRMSprop
from metafunc.interop.torchopt_meta import MetaSGD as MetaSGD
from metafunc.interop.torchopt_state import ModuleState as ModuleState
from metafunc.interop.torchopt_state import extract_state_dict as extract_state_dict
from metafunc.interop.torchopt_state import module_clone as module_clone
from metafunc.interop.torchopt_state import module_detach_ as module_detach_
from metafunc.interop.torchopt_state import recover_state_dict as recover_state_dict
from metafunc.interop.torchopt_state import stop_gradient as stop_gradient
from metafunc.linear import NormalCG, as_solver
from metafunc.rule import Handle, Rule, Stats, call
from metafunc.solvers.adam import safe_sqrt
from metafunc.tree import Skeleton, Tree

Solver = Callable[..., Any]


def __getattr__(name: str) -> Any:
    return TORCHOPT.attribute(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *TORCHOPT.names()})


# The tolerance is free: a solver takes its number of steps whether or not it has converged.
_DEFAULT = NormalCG(max_steps=100, rtol=1e-10)


def custom_root(
    optimality_fn: Callable[..., Tree],
    argnums: int | tuple[int, ...],
    has_aux: bool = False,
    solve: Any = None,
) -> Callable[[Solver], Solver]:
    """Say that the decorated function returns a root of ``optimality_fn``, as ``torchopt.diff.implicit.custom_root``.

    Maths: see :class:`~metafunc.estimators.implicit.Implicit`, with ``optimality_fn`` as the residual.

    Source: TorchOpt 0.7.3, whose signature and calls these are: code changes in its import alone. Differs in: it works
    under ``torch.func.grad``, ``vmap``, ``jvp`` and their nestings, where TorchOpt's raises; second derivatives are
    exact; the solution and the arguments may be any trees, not only tensors and tuples of them; ``argnums`` may name
    any arguments, keyword-only ones too, not only the first few; and ``solve`` gets the system as one matrix and one
    flat vector, whatever the solution looks like.

    What gets a gradient: every floating-point leaf of the arguments in ``argnums``, and nothing else. The other
    arguments and the initial parameters are detached: their gradient is ``None`` in eager mode and zero under
    ``torch.func``, as if they were constants. ``aux`` is detached as well. An argument in ``argnums`` that
    ``optimality_fn`` does not depend on gets a zero: so does the root not depend on it.

    What the solver sees: tensors without a history, with gradients enabled; those of the initial parameters require a
    gradient if they did at the call. It may be any code, and runs task by task under ``vmap``, while its derivative
    is batched. ``torch.compile`` leaves it uncompiled, and refuses ``torch.func`` transforms around it.

    Args:
        optimality_fn: ``optimality_fn(params, *args)``, a tree like the solution, zero there. It is called with the
            arguments of ``solver_fn`` and the solution in place of the first.
        argnums: Which arguments get a gradient: zero-based indices in the signature of ``solver_fn``, in which the
            initial parameters, 0, have none.
        has_aux: Whether ``solver_fn`` returns a pair ``(solution, aux)``; ``aux`` may be anything.
        solve: A linear solver such as ``GMRES()``, one of ``torchopt.linear_solve``, or any function
            ``solve(matvec, b)``. A solver for symmetric systems such as ``CG`` says that the Jacobian of
            ``optimality_fn`` in the parameters is symmetric. Default: ``NormalCG(max_steps=100, rtol=1e-10)``.

    Returns:
        A decorator for ``solver_fn(params, *args, **kwargs)``.

    Raises:
        ValueError: If ``argnums`` is out of range; at the call, if what the functions return does not fit together.
        TypeError: If ``solve`` is no solver; at the call, if an argument in ``argnums`` holds no floating-point
            tensor, or ``optimality_fn`` does not take the arguments of ``solver_fn``.

    Example:
        >>> @custom_root(torch.func.grad(objective), argnums=(1, 2), solve=mf.CG(max_steps=20))
        ... def solver_fn(params, theta, data): ...
    """
    options.function("custom_root", optimality_fn, "optimality_fn(params, *args) -> like the solution")
    chosen = _indices(argnums)
    linear = as_solver(_DEFAULT if solve is None else solve)
    equation = inspect.signature(optimality_fn)

    def decorate(solver_fn: Solver) -> Solver:
        options.function("custom_root", solver_fn, "solver_fn(params, *args) -> solution")
        name = getattr(solver_fn, "__name__", repr(solver_fn))
        signature = inspect.signature(solver_fn)

        def residual(phi: Tree, args: Args) -> Tree:
            positional, named = args.theta
            value = optimality_fn(phi, *positional, **named)
            _check_residual(value, phi, name)
            return value

        def root(phi: Tree) -> Rule:
            # Where the solver starts has no part in the root, and need not look like it: phi takes its place.
            start = Bound(lambda _: phi, own=True)
            inner = Inner(start, residual=residual, symmetric=linear.symmetric_only, name=name)
            return Implicit(linear).rule(inner)

        @functools.wraps(solver_fn)
        @torch.compiler.disable  # the solver is any code, to be run as it is
        def solved(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            first, *positional = bound.args
            rest = _constant_but(chosen, (first, *positional, *bound.kwargs.values()), name)[1:]
            given = rest[: len(positional)], dict(zip(bound.kwargs, rest[len(positional) :], strict=True))
            try:
                equation.bind(first, *given[0], **given[1])
            except TypeError as error:
                raise other_signature(name, str(error)) from error
            recorded = tree.map(lambda x: tree.is_float(x) and autodiff.is_differentiated(x), first)

            def run(at: Args) -> tuple[Tree, Tree]:
                (positional, named), (params,) = _detach(at.theta), _detach(at.data)
                params = tree.map(lambda x, record: x.requires_grad_() if record else x, params, recorded)
                with torch.enable_grad():
                    return _split(solver_fn(params, *positional, **named), has_aux, name)

            rule, solution = _Solution(root, run, name, []), list[Tree]()

            def attempt(captured: Captured) -> tuple[Tree, ...]:
                args = Args(given, (_detach(first),), (), captured=captured)
                out = call(Handle(rule), args)
                solution[:] = [_detach(out[0])]
                try:
                    if captured:
                        call_with(captured, residual, (solution[0], args), residual)
                except Uncaptured:
                    raise
                except Exception:  # it says so itself when it is differentiated
                    pass
                return out

            def touch(at: Args) -> Tree:
                return residual(solution[0], at)

            phi, tensors = Closure(seen=True).run(attempt, touch, Args(given, (_detach(first),), ()), name)
            return (phi, rule.static[0].fill(_detach(tensors))) if has_aux else phi

        return solved

    return decorate


@dataclass(frozen=True, slots=True, eq=False)
class _Solution(Rule):
    """Outcome: the solution, and the tensors of ``aux``. Its derivative is that of a root."""

    root: Callable[[Tree], Rule]
    run: Callable[[Args], tuple[Tree, Tree]]
    solver: str
    static: list[Skeleton]  # what there is in aux beside tensors, once forward has run

    @property
    def name(self) -> str:
        return f"custom_root({self.solver})"

    @property
    def batchable(self) -> bool:
        return False

    def forward(self, args: Args) -> tuple[Tree, ...]:
        phi, aux = self.run(args)
        tensors, static = tree.take_tensors(aux)
        if self.static and not _same(static, self.static[0]):
            raise uneven_aux(self.solver)
        self.static[:] = [static]
        return _detach(phi), _detach(tensors)

    def pullback(self, args: Args, out: Any, cotangent: Any, needs: Tree) -> tuple[Tree, Stats]:
        return self.root(out[0]).pullback(args, out[:1], cotangent[:1], needs)

    def pushforward(self, args: Args, out: Any, tangent: Tree) -> tuple[Tree, ...]:
        return *self.root(out[0]).pushforward(args, out[:1], tangent), tree.zeros_like(out[1])


class Transformation(NamedTuple):
    """A functional optimizer in TorchOpt's sense, to be put into a ``torchopt.chain``."""

    init: Callable[[Tree], Tree]
    update: Callable[..., tuple[Tree, Tree]]


def clip_grad_norm(max_norm: float, norm_type: float = 2.0) -> Transformation:
    """Scale gradients down to a norm of at most ``max_norm``, as ``torchopt.clip.clip_grad_norm``.

    Maths: ``g <- g min(1, max_norm / (||g|| + 1e-6))`` with the norm of all gradients together.

    Source: TorchOpt 0.7.3. Differs in: the norm is part of the derivative, which TorchOpt takes for a constant, and it
    runs under ``vmap``, task by task.

    Args:
        max_norm: The largest norm that is left alone.
        norm_type: 2 or ``math.inf``.

    Raises:
        ValueError: If ``max_norm`` is not positive, or for another norm.

    Example:
        >>> mf.optimizer_loop(loss, torchopt.chain(clip_grad_norm(1.0), torchopt.adam(0.01)), steps=5)
    """
    if not max_norm > 0:
        raise errors.out_of_range("max_norm", max_norm, "a positive number", "e.g. max_norm=1.0")
    if norm_type not in (2, math.inf):
        raise errors.out_of_range("norm_type", norm_type, "2 or math.inf", "or leave it out")

    def update(updates: Tree, state: Tree, *, params: Tree = None, inplace: bool = True) -> tuple[Tree, Tree]:
        present = [g.reshape(-1) for g in tree.leaves(updates) if g is not None]
        flat = torch.cat(present)
        size = safe_sqrt(flat @ flat) if norm_type == 2 else flat.abs().amax()
        factor = (max_norm / (size + 1e-6)).clamp(max=1.0)
        return tree.map(lambda g: None if g is None else factor * g, updates), state

    return Transformation(lambda params: (), update)


def _indices(argnums: int | tuple[int, ...]) -> tuple[int, ...]:
    indices = argnums if isinstance(argnums, tuple) else (argnums,)
    if not indices or not all(type(i) is int and i > 0 for i in indices):
        raise errors.out_of_range("argnums", argnums, "a positive integer or a tuple of them", _COUNTING)
    return indices


_COUNTING = "which counts the arguments of the solver from 0; the initial parameters, 0, have no gradient"


def _constant_but(chosen: tuple[int, ...], values: tuple[Tree, ...], name: str) -> list[Tree]:
    """The arguments, detached where their index is not among ``chosen``."""
    if max(chosen) >= len(values):
        expected = f"indices below {len(values)}, the number of arguments of {name}"
        raise errors.out_of_range("argnums", chosen, expected, _COUNTING)
    for i in chosen:
        if not any(map(tree.is_float, tree.leaves(values[i]))):
            raise nothing_to_differentiate(name, i, values[i])
    return [x if i in chosen else _detach(x) for i, x in enumerate(values)]


def _split(output: Any, has_aux: bool, name: str) -> tuple[Tree, Tree]:
    """The solution, checked, and ``aux``."""
    pair: tuple[Any, ...] = output if has_aux else (output, None)
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise no_pair(name, output)
    phi, aux = pair
    if not tree.leaves(phi):
        raise not_a_solution(name, ".", phi)
    for path, leaf in zip(tree.paths(phi), tree.leaves(phi), strict=True):
        if not tree.is_float(leaf):
            raise not_a_solution(name, path, leaf)
    return phi, aux


def _check_residual(value: Tree, phi: Tree, name: str) -> None:
    if tree.structure(value) != tree.structure(phi):
        raise other_residual(name, "", str(tree.structure(phi)), str(tree.structure(value)))
    for path, x, y in zip(tree.paths(phi), tree.leaves(value), tree.leaves(phi), strict=True):
        if not isinstance(x, Tensor) or (x.shape, x.dtype, x.device) != (y.shape, y.dtype, y.device):
            raise other_residual(name, f" at {path}", errors.describe(y), errors.describe(x))


def _same(a: Skeleton, b: Skeleton) -> bool:
    """Whether two tasks returned the same beside tensors; objects are compared by identity."""
    return a.spec == b.spec and all(
        x is y or (isinstance(x, int | float | str) and x == y)
        for x, y in zip(a.static, b.static, strict=True)
    )


def _detach(args: Tree) -> Tree:
    return tree.map(lambda x: x.detach() if isinstance(x, Tensor) else x, args)
