"""The one abstraction: an estimator is a derivative rule for ``adapt(theta, *data) -> phi``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import FunctionType
from typing import Any, ClassVar

from torch import Tensor

from metafunc import autodiff, errors, tree
from metafunc.inner import Args, Inner
from metafunc.plug import Plug
from metafunc.rule import Handle, Pullback, Rule, Stats, call, linearize
from metafunc.tree import Tree


class Estimator(Plug, ABC):
    """A way to differentiate an inner solve.

    Laws: the estimator never changes ``phi``. An exact one gives the derivative of the solve (``Explicit``) or of the
    solution (``Implicit``), and so do its second derivatives; a biased one puts another linear map in its place and
    refuses second derivatives.
    """

    __slots__ = ()
    takes_functions: ClassVar[bool] = False
    """Whether the first option may be a function."""

    def __new__(cls, *given: Any, **named: Any) -> Any:
        """Refuses what an estimator is put around where its options belong: ``Explicit(inner)``."""
        around = any(isinstance(x, Inner | Adapt) for x in (*given, *named.values()))
        if around or (given and isinstance(given[0], FunctionType) and not cls.takes_functions):
            raise _without_parentheses(cls)
        return super().__new__(cls)

    @abstractmethod
    def rule(self, inner: Inner) -> Rule:
        """The derivative rule for ``inner``: a function of :class:`~metafunc.inner.Args` whose first outcome is
        ``phi``. Raises if this estimator cannot serve this inner problem."""

    def foresee(self, inner: Inner, reach: Tensor) -> Stats:
        """What can be said of the error, for ``mf.check``; ``reach`` is the largest eigenvalue of ``lr H``."""
        return {}

    def __call__(self, inner: Inner, *data: Any) -> Adapt:
        """Wrap an inner problem: ``adapt = estimator(inner)``, and ``phi = adapt(theta, *data)``."""
        if data:  # meant for a function that took the place of an option
            raise _without_parentheses(type(self))
        if isinstance(inner, Adapt):
            raise errors.wrapped_twice(repr(self), repr(inner.estimator))
        if not isinstance(inner, Inner):
            raise errors.not_an_inner_problem(type(self).__name__, inner)
        return Adapt(self, inner, Handle(self.rule(inner)))


def _without_parentheses(kind: type) -> TypeError:
    required = [f.name for f in fields(kind) if f.default is MISSING] if is_dataclass(kind) else []
    return errors.without_parentheses(kind.__name__, required)


@dataclass(frozen=True, slots=True, eq=False)
class Adapt:
    """``adapt(theta, *data) -> phi``: an ordinary function under every ``torch.func`` transform."""

    estimator: Estimator
    inner: Inner
    handle: Handle

    def __call__(self, theta: Tree, *data: Tree) -> Tree:
        """Adapt to one task.

        Args:
            theta: The meta-parameters; gradients flow to every floating-point leaf.
            data: The task's data; gradients flow to every floating-point leaf.

        Returns:
            ``phi``, a tree like ``init(theta)``.
        """
        return self.inner.run(lambda args: call(self.handle, args)[0], self.inner.args(theta, data))

    def linearize(
        self, theta: Tree, *data: Tree, needs: tuple[Tree, Tree] | None = None, guess: Tree = ()
    ) -> tuple[Tree, Callable[[Tree], tuple[Tree, tuple[Tree, ...], Stats]]]:
        """``phi``, and the pull-back of the solve together with what it learns on the way.

        Args:
            theta: As for a call.
            data: As for a call.
            needs: Trees of booleans like ``theta`` and ``data``: the leaves whose cotangent is asked for. Default:
                every floating leaf of ``theta``, none of ``data``.
            guess: Where the linear solver of an implicit estimator starts, a tree like ``phi``. Default: at zero.

        Returns:
            ``(phi, pull)`` with ``pull(v) -> (theta_bar, data_bar, stats)`` for a cotangent ``v`` of ``phi``;
            ``None`` stands for a cotangent that was not asked for.
        """

        def run(args: Args) -> tuple[tuple[Tree, ...], Pullback]:
            wanted = Args(
                tree.map(tree.is_float, theta) if needs is None else needs[0],
                tree.map(lambda _: False, data) if needs is None else needs[1],
                tree.map(autodiff.is_differentiated, args.hyper),
                tree.map(lambda _: False, guess),
                tree.map(autodiff.is_differentiated, args.captured),
            )
            return linearize(self.handle, args, wanted)

        out, pullback = self.inner.run(run, self.inner.args(theta, data, guess))

        def pull(v: Tree) -> tuple[Tree, tuple[Tree, ...], Stats]:
            bar, stats = pullback((v, *(None for _ in out[1:])))
            return bar.theta, bar.data, stats

        return out[0], pull

    def __reduce__(self) -> tuple[Estimator, tuple[Inner]]:
        return self.estimator, (self.inner,)

    def __repr__(self) -> str:
        return f"{self.estimator!r}({self.inner.name})"
