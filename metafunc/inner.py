"""The inner problem and how it is solved: objective, initialisation, and a path of steps or a black box.

An :class:`Inner` says everything an estimator may want to know about ``adapt``: what it minimises (or which residual
it brings to zero), where it starts, and either the step that it repeats or the code that solves it in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from metafunc import autodiff, errors, options, tree
from metafunc.captured import Captured, Closure, refusing
from metafunc.captured import call as call_with
from metafunc.rule import Handle, Rule, Stats, call
from metafunc.tree import Tree

T = TypeVar("T")


class Args(NamedTuple):
    """Everything that an inner solve depends on; gradients flow to every floating leaf of it."""

    theta: Tree
    data: tuple[Tree, ...]
    hyper: Tree  # tensors given when the solver was declared, such as a learned ``lr``
    guess: Tree = ()  # where an implicit estimator's linear solver starts, if anywhere; no derivative flows to it
    captured: Captured = ()  # what the user's functions reach on the side


Objective = Callable[[Tree, Args], Tensor]
Gradient = Callable[[Tree, Args], Tree]
"""From ``(phi, args)`` to the gradient of the objective in ``phi``."""


class Parts(NamedTuple):
    """An objective taken apart: ``criterion(model(phi, args), args) + rest(phi, args)``."""

    model: Callable[[Tree, Args], Tree]
    criterion: Callable[[Tree, Args], Tensor]
    rest: Objective | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Inner:
    """An inner problem with its solver. Calling it solves it; a derivative takes an estimator around it.

    A solver is one of three things: a path (``step``), a minimiser of any objective (``minimize``), or a black box
    (``solve``).

    Attributes:
        init: From the arguments to the first ``phi``. Every ``phi`` has its tree, shapes, dtype and device.
        objective: What the solver minimises over its first argument, or ``None``.
        curved: The objective whose second derivatives in ``phi`` stand for those of ``objective``, if not itself.
        parts: The objective taken apart, if that is possible.
        residual: What the solver brings to zero, like ``phi``, or ``None``. For an objective it is the gradient.
        symmetric: Whether the Jacobian of the residual in ``phi`` is symmetric.
        steps: ``K``, the number of steps; 0 where there is no path.
        step: One step ``(gradient, state, args) -> state`` from the solver's state to the next, or ``None``.
        begin: From the first ``phi`` to the solver's first state, a tree whose first child is ``phi``.
        tolerance: The norm of the gradient at which a task stops and stays where it is; 0 for never.
        early_exit: Whether the loop ends once all tasks have stopped.
        minimize: ``(inner, start, args) -> phi``, which minimises ``inner.objective`` from ``start``, or ``None``.
        solve: A black box ``args -> phi``, or ``None``.
        batchable: Whether the solver runs under ``vmap``; if not, it runs task by task there.
        settings: What ``step`` reads beside gradient and state (``lr`` and the like): a reader for each name.
        hyper: The tensors among these settings that were given as they are; see :class:`Args`.
        free: Whether the objective is known not to depend on ``theta``.
        functions: The user's functions, as they were given.
        recipe: How it was made; for pickles and copies.
        name: What errors call this solver.
    """

    init: Callable[[Args], Tree]
    objective: Objective | None = None
    curved: Objective | None = None
    parts: Parts | None = None
    residual: Gradient | None = None
    symmetric: bool = True
    steps: int = 0
    step: Callable[[Gradient, Tree, Args], Tree] | None = None
    begin: Callable[[Tree], tuple[Tree, ...]] = lambda phi: (phi,)
    tolerance: float = 0.0
    early_exit: bool = True
    minimize: Callable[[Inner, Tree, Args], Tree] | None = None
    solve: Callable[[Args], Tree] | None = None
    batchable: bool = True
    settings: Mapping[str, Callable[[Args], Any]] = field(default_factory=dict[str, Callable[[Args], Any]])
    hyper: Tree = ()
    free: bool = False
    functions: tuple[Any, ...] = ()
    recipe: Callable[[], Inner] | None = None
    name: str = "inner"
    closure: Closure = field(default_factory=Closure, init=False)

    def __post_init__(self) -> None:
        for name in ("init", "objective", "curved", "residual", "step", "solve"):
            object.__setattr__(self, name, bound(getattr(self, name)))
        if self.parts is not None:
            object.__setattr__(self, "parts", Parts(*map(bound, self.parts)))
        object.__setattr__(self, "settings", {name: bound(read) for name, read in self.settings.items()})

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Callable[..., Inner], tuple[Any, ...]]:
        if self.recipe is None:
            raise errors.not_to_be_pickled(self.name)
        return _follow, (self.recipe,)

    def args(self, theta: Tree, data: tuple[Tree, ...], guess: Tree = ()) -> Args:
        """The checked arguments of one solve."""
        args = Args(theta, data, self.hyper, guess)
        first = self.init(args)
        check_parameters(first, "theta" if first is theta else "init(theta)")
        for name, read in self.settings.items():
            check_fits(name, read(args), first)
        return args

    def inputs(self, args: Args) -> Tree:
        """What the path depends on beside the objective: its start and its settings."""
        return self.init(args), {name: read(args) for name, read in self.settings.items()}

    def slope(self, phi: Tree, args: Args) -> Tree:
        """What vanishes at the solution: the residual, or the gradient of the objective."""
        return (
            plain_gradient(self.objective)(phi, args) if self.residual is None else self.residual(phi, args)
        )

    def run(self, fn: Callable[[Args], T], args: Args) -> T:
        """``fn(args)``, with the tensors that the user's functions have captured among the arguments."""
        try:
            return self.closure.run(
                lambda held: fn(args._replace(captured=held)),
                lambda at: touch(self, at),
                args,
                self.name,
                unseen=self.solve is not None,
            )
        except RuntimeError as error:
            if not any(mark in str(error) for mark in _WRITES):
                raise
            raise errors.writes_to_captured(self.name) from error

    def __call__(self, theta: Tree, *data: Tree) -> Tree:
        """Solve. The solution has no derivative: that is for an estimator to say."""
        return self.run(lambda args: call(Handle(Bare(self)), args)[0], self.args(theta, data))


_WRITES = (
    "would mutate a captured Tensor",
    "Batch norm got a batched tensor as input while the running_mean",
)
"""What torch says of a loss that writes to a tensor which it did not get as an argument."""

P = ParamSpec("P")


def remembered(make: Callable[P, Inner]) -> Callable[P, Inner]:
    """A maker of inner problems, which are then pickled and copied as what they were made from."""

    @wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> Inner:
        return replace(make(*args, **kwargs), recipe=partial(made, *args, **kwargs))

    return made


def _follow(recipe: Callable[[], Inner]) -> Inner:
    return recipe()


def touch(inner: Inner, args: Args) -> Tree:
    """What all of the user's functions return at the start; for finding out what they reach."""
    phi = inner.init(args)
    found: list[Tree] = [inner.inputs(args)]
    if inner.step is not None:
        found.append(advance(inner, plain_gradient(inner.objective), inner.begin(phi), args)[0])
    elif inner.objective is not None:
        found.append(inner.objective(phi, args))
    return found, [other(phi, args) for other in (inner.curved, inner.residual) if other is not None]


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """A function whose last argument is :class:`Args`, with the tensors that it captured replaced by those in there.

    Attributes:
        fn: The function.
        own: Whether it is this package's own, and closes over nothing but what a rule was given.
    """

    fn: Callable[..., Any]
    own: bool = False

    def __call__(self, *given: Any) -> Any:
        """What ``fn`` returns."""
        captured = given[-1].captured
        if captured and not self.own:
            return call_with(captured, self.fn, given, self)
        if self.own or torch.compiler.is_dynamo_compiling() or not autodiff.is_traced():
            return self.fn(*given)
        with refusing(given):
            return self.fn(*given)


def bound(fn: Callable[..., Any] | None) -> Any:
    """The function as a :class:`Bound` one."""
    return fn if fn is None or isinstance(fn, Bound) else Bound(fn)


def solve_with(inner: Inner, args: Args) -> Tree:
    """``phi``, by the inner problem's own solver."""
    if inner.solve is not None:
        return _black_box(inner, inner.solve, args)
    return minimize(inner, inner.init(args), args)


def minimize(inner: Inner, start: Tree, args: Args) -> Tree:
    """``phi``, from ``start``; ``inner.objective`` may be another one than the solver was declared with."""
    if inner.minimize is not None:
        return inner.minimize(inner, start, args)
    state, gradient = inner.begin(start), plain_gradient(inner.objective)
    for _ in range(inner.steps):
        state, done = advance(inner, gradient, state, args)
        if inner.early_exit and done is not None and autodiff.all_true(done):
            break
    return state[0]


def advance(
    inner: Inner, gradient: Gradient, state: Tree, args: Args
) -> tuple[tuple[Tree, ...], Tensor | None]:
    """The next state, and whether this task had already reached the tolerance and stayed where it was."""
    assert inner.step is not None
    if not inner.tolerance:
        return tuple(inner.step(gradient, state, args)), None
    slopes: list[Tree] = []

    def noted(phi: Tree, args: Args) -> Tree:
        slopes.append(gradient(phi, args))
        return slopes[-1]

    after = inner.step(noted, state, args)
    done = tree.norm(slopes[0]) <= inner.tolerance
    return tree.map(lambda new, old: torch.where(done, old, new), tuple(after), tuple(state)), done


def _black_box(inner: Inner, solve: Callable[[Args], Tree], args: Args) -> Tree:
    # Copies either way: the code may work in place, and return what it was given or what it will write to again.
    own = tree.copied(args)
    with torch.enable_grad():  # the user's code may want to call backward()
        phi = solve(own)
    check_like(phi, inner.init(args), inner.name)
    return tree.copied(phi)


def plain_gradient(objective: Objective | None) -> Gradient:
    """The gradient of an objective as torch differentiates it."""

    def gradient(phi: Tree, args: Args) -> Tree:
        if objective is None:
            raise errors.no_objective()
        return autodiff.grad(objective, phi, args)

    return gradient


def stationarity(inner: Inner, slope: Tree, args: Args) -> Tensor:
    """How far the solve has come: the norm of the gradient (or residual) at ``phi`` over that at ``init``."""
    return relative(tree.norm(slope), tree.norm(inner.slope(inner.init(args), args)))


def relative(part: Any, whole: Tensor) -> Tensor:
    """``part / whole``, and ``part`` itself for a zero whole."""
    return part / torch.where(whole > 0, whole, torch.ones_like(whole))


@dataclass(frozen=True, slots=True)
class Bare(Rule):
    """A solve without an estimator: it has no derivative. A black box runs task by task under ``vmap``."""

    inner: Inner

    @property
    def batchable(self) -> bool:
        return self.inner.batchable

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


def check_fits(name: str, value: Any, phi: Tree) -> None:
    """Raise unless a setting is a number, a tensor or a tree like ``phi`` that leaves the shapes and dtypes of ``phi``
    as they are."""
    if _fits_all(value):
        return
    if isinstance(value, Tensor):
        value = tree.map(lambda _: value, phi)
    if tree.structure(value) != tree.structure(phi):
        raise errors.other_setting(name, tree.paths(phi), tree.paths(value))
    for i, (x, y) in enumerate(zip(tree.leaves(value), tree.leaves(phi), strict=True)):
        if not (_fits_all(x) or (tree.is_float(x) and _fits(x, y))):
            raise errors.unfit_setting(name, tree.paths(phi)[i], y, x)


def _fits_all(value: Any) -> bool:
    return options.is_number(value) or (tree.is_float(value) and value.ndim == 0)


def _fits(x: Tensor, y: Tensor) -> bool:
    """Whether ``x * y`` has the shape and the dtype of ``y``."""
    try:
        x.expand(y.shape)
    except RuntimeError:
        return False
    return torch.result_type(x, y) == y.dtype


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
    return Bound(lambda args: args.theta, own=True) if init is None else (lambda args: init(args.theta))
