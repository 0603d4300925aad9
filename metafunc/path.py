"""A path of steps seen from the derivative side: run it, remember its last states, and cross one step either way."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

from metafunc import errors, tree
from metafunc.autodiff import jvp, vjp
from metafunc.captured import drawing_from
from metafunc.curvature import Curvature, Exact
from metafunc.generators import Draws, taped
from metafunc.inner import Args, Gradient, Inner, advance, plain_gradient
from metafunc.tree import Tree

State = tuple[Tree, ...]
"""The solver's state; its first child is ``phi``."""


@dataclass(frozen=True, slots=True)
class Path:
    """The steps of ``inner`` on a gradient map that some curvature has made."""

    inner: Inner
    gradient: Gradient

    def first(self, args: Args) -> State:
        """The state before the first step."""
        return self.inner.begin(self.inner.init(args))

    def step(self, state: State, args: Args) -> State:
        """The next state."""
        return advance(self.inner, self.gradient, state, args)[0]

    def final(self, args: Args) -> State:
        """The state after the last step."""
        state = self.first(args)
        for _ in range(self.inner.steps):
            state = self.step(state, args)
        return state

    def record(self, args: Args, keep: Container[int]) -> tuple[State, list[State], Draws]:
        """The state after the last step, those before the steps to ``keep``, and what was drawn on the way."""

        def walk(tape: Draws) -> tuple[State, list[State]]:
            note(tape)
            state, kept = self.first(args), list[State]()
            for k in range(self.inner.steps):
                note(tape)
                if k in keep:
                    kept.append(state)
                state = self.step(state, args)
            return state, kept

        (state, kept), tape = taped(args, walk)
        return state, kept, tape

    def run(self, args: Args, tape: Draws, start: State, steps: range) -> list[State]:
        """The states before these steps, the first of which is ``start``, once more."""
        states = [start]
        for k in steps[:-1]:
            states.append(self.step(states[-1], at_step(args, tape, k)))
        return states

    def linearize_step(self, state: State, args: Args, needs: Tree) -> Callable[[State], tuple[State, Tree]]:
        """The pull-back of a step: from the cotangent of the next state to those of this one and of the arguments."""
        every = tree.map(tree.is_float, state)
        _, pull = vjp(self.step, state, args, needs=(every, needs))

        def pull_step(v: State) -> tuple[State, Tree]:
            state_bar, args_bar = pull(v)
            return state_bar, args_bar

        return pull_step

    def pull_step(self, state: State, args: Args, v: State, needs: Tree) -> tuple[State, Tree]:
        """From the cotangent of the next state to those of this one and of the arguments."""
        return self.linearize_step(state, args, needs)(v)

    def pull_first(self, args: Args, v: State, needs: Tree) -> Tree:
        """From the cotangent of the first state to that of the arguments."""
        _, pull = vjp(self.first, args, needs=(needs,))
        return pull(v)[0]

    def push_step(self, state: State, args: Args, t: State, tangent: Tree) -> State:
        """From the tangents of a state and of the arguments to that of the next state."""
        return jvp(self.step, (state, args), (t, tangent))[1]

    def push_first(self, args: Args, tangent: Tree) -> State:
        """From the tangent of the arguments to that of the first state."""
        return jvp(self.first, (args,), (tangent,))[1]


def note(tape: Draws) -> None:
    """Note where the generators stand, if anybody wants to know."""
    if tape:
        tape.note()


def at_step(args: Args, tape: Draws, k: int) -> Args:
    """The arguments with which step ``k`` draws what it drew the first time; -1 is the initialisation."""
    return args._replace(captured=drawing_from(args.captured, tape.before(k))) if tape else args


def cotangent_of_phi(v: Tree | None, state: State) -> State:
    """The cotangent of a whole state in which only ``phi`` has one."""
    zeros: tuple[Any, ...] = tree.zeros_like(state)
    return zeros if v is None else (v, *zeros[1:])


def path_of(inner: Inner, curvature: Curvature, estimator: str) -> Path:
    """The path of ``inner`` under ``curvature``; raises if there is none that an estimator could follow."""
    if inner.step is None:
        raise errors.needs_path(estimator, inner.name)
    if inner.objective is None:
        if not isinstance(curvature, Exact):
            raise errors.needs_curvature_free(estimator, inner.name)
        return Path(inner, plain_gradient(None))
    return Path(inner, curvature.gradient(inner))
