"""What the inner solvers have in common: the objective that they minimise, and the options that say so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from metafunc import errors, options, tree
from metafunc.inner import Args, Inner, Objective, Parts, from_theta, scalar
from metafunc.plug import Plug
from metafunc.settings import Setting, Settings, check_setting
from metafunc.tree import Tree

_OBJECTIVE = "objective(phi, theta, *data) -> scalar"


@dataclass(frozen=True, slots=True, eq=False)
class Composed:
    """A loss whose model and criterion can be told apart, as ``GaussNewton`` needs it: ``criterion(model(...), ...)``.

    Attributes:
        model: ``model(phi, *data) -> outputs``, a tensor or a tree of them.
        criterion: ``criterion(outputs, *data) -> scalar``.

    Used as an ``objective=``, both get ``theta`` before the data.

    Example:
        >>> loss = mf.Composed(lambda p, b: functional_call(net, p, (b[0],)), lambda out, b: F.cross_entropy(out, b[1]))
    """

    model: Callable[..., Tree]
    criterion: Callable[..., Tensor]

    def __post_init__(self) -> None:
        options.function("model", self.model, "model(phi, *data) -> outputs")
        options.function("criterion", self.criterion, "criterion(outputs, *data) -> scalar")

    def __call__(self, phi: Tree, *rest: Tree) -> Tensor:
        """The loss."""
        return self.criterion(self.model(phi, *rest), *rest)


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """``g(phi) = loss(phi, *data) + prox/2 ||phi - init(theta)||^2 + weight_decay/2 ||phi||^2``, or the same with an
    ``objective`` in place of the loss.

    Attributes:
        solver: The name of the solver, for errors.
        loss: ``loss(phi, *data) -> scalar``, or ``None``.
        objective: ``objective(phi, theta, *data) -> scalar``, or ``None``.
        init: From ``theta`` to the first ``phi``, or ``None``.
        settings: ``prox``, ``weight_decay``, and what the solver adds to them.
    """

    solver: str
    loss: Callable[..., Tensor] | None
    objective: Callable[..., Tensor] | None
    init: Callable[[Tree], Tree] | None
    settings: Settings

    def __post_init__(self) -> None:
        if (self.loss is None) == (self.objective is None):
            raise errors.loss_or_objective(self.solver)
        signature = "loss(phi, *data) -> scalar" if self.objective is None else _OBJECTIVE
        options.function(self.solver, self._user, signature)
        if isinstance(self._user, nn.Module | Inner | Plug):
            raise errors.not_a_loss(self.solver, signature, self._user)
        options.function("init", self.init, "init(theta) -> phi", optional=True)
        for name, example in (("prox", 2.0), ("weight_decay", 1e-4)):
            check_setting(name, self.settings.values[name], example)

    def inner(self, name: str, **solver: Any) -> Inner:
        """The inner problem, with the solver's own fields."""
        user, with_theta = self._user, self.objective is not None
        rest = self._rest()
        checked = scalar(user, "objective" if with_theta else "loss")

        def data_term(phi: Tree, args: Args) -> Tensor:
            return checked(phi, *self._given(args))

        parts = None
        if isinstance(user, Composed):
            parts = Parts(
                lambda phi, args: user.model(phi, *self._given(args)),
                lambda out, args: user.criterion(out, *self._given(args)),
                rest,
            )
        functions = (user.model, user.criterion) if isinstance(user, Composed) else (user,)
        return Inner(
            init=from_theta(self.init),
            objective=data_term if rest is None else lambda phi, args: data_term(phi, args) + rest(phi, args),
            parts=parts,
            settings=self.settings.readers,
            hyper=self.settings.hyper,
            free=not with_theta and not self._present("prox") and not self._learned("weight_decay"),
            functions=functions,
            name=name,
            **solver,
        )

    @property
    def _user(self) -> Callable[..., Tensor]:
        user = self.loss if self.objective is None else self.objective
        assert user is not None
        return user

    def _given(self, args: Args) -> tuple[Tree, ...]:
        return args.data if self.objective is None else (args.theta, *args.data)

    def _rest(self) -> Objective | None:
        start, read = from_theta(self.init), self.settings.readers
        terms: list[Objective] = []
        if self._present("prox"):
            terms.append(lambda phi, args: _half_square(read["prox"](args), tree.sub(phi, start(args))))
        if self._present("weight_decay"):
            terms.append(lambda phi, args: _half_square(read["weight_decay"](args), phi))
        if not terms:
            return None
        return lambda phi, args: sum((term(phi, args) for term in terms[1:]), terms[0](phi, args))

    def _present(self, name: str) -> bool:
        value = self.settings.values[name]
        return not (isinstance(value, int | float) and value == 0)

    def _learned(self, name: str) -> bool:
        return callable(self.settings.values[name]) or name in self.settings.hyper


def _half_square(weight: Any, x: Tree) -> Tensor:
    return 0.5 * tree.dot(x, tree.scale(weight, x))


def problem(
    solver: str,
    loss: Callable[..., Tensor] | None,
    objective: Callable[..., Tensor] | None,
    init: Callable[[Tree], Tree] | None,
    **settings: Setting,
) -> Problem:
    """A :class:`Problem` from the options that all solvers share."""
    return Problem(solver, loss, objective, init, Settings(settings))


def check_limits(steps: int, tolerance: float, early_exit: bool) -> None:
    """Raise unless there are limits at which a solver stops."""
    options.integer("steps", steps, 5)
    options.number("tolerance", tolerance, 1e-6)
    options.boolean("early_exit", early_exit)
