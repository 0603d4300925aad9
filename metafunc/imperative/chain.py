"""The steps of an inner loop, and the estimator that differentiates them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metafunc.estimator import Estimator
from metafunc.estimators import Explicit
from metafunc.imperative.errors import changed_in_place, no_fast_weights
from metafunc.imperative.gate import Mark, gate
from metafunc.imperative.record import State, Step, Vector, gradients, named, renamed
from metafunc.imperative.rules import Rule, rule_of
from metafunc.rule import Stats

Update = Callable[[list[Tensor | None], list[Tensor], State], tuple[list[Tensor], State]]
"""From gradients (``None`` where the loss does not depend on a parameter), parameters and state to the next two."""


class Chain:
    """The steps of an inner loop that somebody else's code takes, differentiated by an estimator.

    The user computes an inner loss from :attr:`params` and hands it to :meth:`step`, as often as they like, and at the
    end an outer loss from :attr:`params`; eager ``backward()`` and ``torch.autograd.grad`` then give the meta-gradient.

    Maths: that of the estimator, with the step ``(params, state) -> (params, state)`` that the user's loss and update
    make up. ``Explicit``: plain autograd. ``FirstOrder``: the identity to ``first``. ``Truncated(depth)``: the last
    ``depth`` steps, and the identity in the parameters before. ``Binomial``: binommaml (8) over the kept steps;
    an order above the number of steps taken counts as that number. ``Implicit``: the implicit function theorem for the
    gradient of the last inner loss, where it was taken.

    Where gradients flow: to ``first`` and to every leaf tensor that a kept step depends on, such as a learned rate.
    A leaf that only steps outside of the kept ones depend on gets none (``None``, as everywhere in eager mode).

    Exact when: as the estimator. Second derivatives are those of autograd for ``Explicit`` and are refused otherwise.

    Cost: that of the estimator. Memory: the graphs of all steps for ``Explicit``, of ``window`` steps for ``Binomial``,
    of ``depth`` for ``Truncated``, of one gradient for ``Implicit``, none for ``FirstOrder``.

    Args:
        first: The initial tensors, with their graph to the meta-parameters. Those that require no gradient are frozen.
        estimator: How the loop is differentiated.
        state: The optimizer's state to start with; no gradient flows to it but through a kept first step.

    Attributes:
        params: The fast parameters now, to be used in the forward pass.
        state: The optimizer's state now.
        steps: The number of steps taken.
        stats: What the last backward learned of its linear solve, if there was one.

    Raises:
        TypeError: For an estimator that an imperative loop cannot serve: those that take the steps themselves.
        ZeroGradientError: In the backward, under ``Implicit``, if the last loss depends on nothing beside the fast
            parameters.
        SecondDerivativeError: For a derivative of a derivative, under all estimators but ``Explicit``.
    """

    def __init__(
        self, first: Sequence[Tensor], estimator: Estimator = Explicit(), state: State = None
    ) -> None:
        self._rule = rule_of(estimator)
        self._mark = Mark.first(repr(estimator))
        self._kept: tuple[Step, ...] = ()
        self.steps = 0
        self.params, self.state = list(first), state
        self.stats: Stats = {}
        if self._rule is not None:
            start = named(self.params, None)
            moved = gate(list(start.values()), list(start.values()), self._mark, lambda bars: bars)
            self._anchors = dict(zip(start, moved, strict=True))
            self.params, _ = renamed(self.params, None, self._anchors)
        self._seen = self._versions()

    def step(self, loss: Tensor, update: Update) -> None:
        """Take one step: the gradient of ``loss`` at :attr:`params`, then ``update``.

        Args:
            loss: A scalar computed from :attr:`params`.
            update: ``update(grads, params, state) -> (params, state)``, made of differentiable operations. The state is
                ``None`` at first unless one was given, and then what the update before returned.

        Raises:
            ValueError: If ``loss`` does not depend on the fast parameters, or depends on those of an earlier step.
            RuntimeError: If the fast parameters were modified in place.
        """
        if self._versions() != self._seen:
            raise changed_in_place()
        rule = self._rule
        grads = self._grads(loss, create_graph=rule is None or rule.keep != 0)
        if rule is None:
            self.params, self.state = update(grads, self.params, self.state)
        else:
            self._record(rule, grads, update)
        self._seen = self._versions()
        self.steps += 1

    def _grads(self, loss: Tensor, create_graph: bool) -> list[Tensor | None]:
        wanted = named(self.params, None)
        if not wanted or not loss.requires_grad:
            raise no_fast_weights()
        found = gradients([loss], list(wanted.values()), create_graph=create_graph)
        if all(g is None for g in found):
            raise no_fast_weights()
        by_name = dict(zip(wanted, found, strict=True))
        return [by_name.get(str(i)) for i in range(len(self.params))]

    def _record(self, rule: Rule, grads: list[Tensor | None], update: Update) -> None:
        before = named(self.params, self.state)
        if rule.follows:
            params, state = update(grads, self.params, self.state)
            after = named(params, state)
            self._keep(rule, Step(before, after, self._anchors, self._mark))
        else:
            if rule.keep:
                self._keep(rule, self._slope(before, grads))
            with torch.no_grad():
                still = [None if g is None else g.detach() for g in grads]
                params, state = update(still, [x.detach() for x in self.params], self.state)
            after = {name: params[int(name)] for name in self._anchors}
        self._mark = self._mark.following()
        moved = _gated(rule, self._kept, after, self._anchors, self._mark, self.stats)
        self.params, self.state = renamed(params, state, moved)

    def _slope(self, before: Vector, grads: list[Tensor | None]) -> Step:
        slope = {str(i): g for i, g in enumerate(grads) if g is not None}
        points = {name: before[name] for name in slope}
        bent = {name: g for name, g in slope.items() if g.requires_grad}
        return Step(points, bent, self._anchors, self._mark)

    def _keep(self, rule: Rule, step: Step) -> None:
        steps = (*self._kept, step)
        room = len(steps) if rule.keep is None else rule.keep
        for old in steps[:-room]:
            old.drop()
        self._kept = steps[-room:]

    def _versions(self) -> list[int]:
        return [x._version for x in self.params]


def _gated(
    rule: Rule, steps: tuple[Step, ...], after: Vector, anchors: Vector, mark: Mark, stats: Stats
) -> Vector:
    """The tensors after a step as functions of the first parameters and of what the kept steps depend on beside them.

    It knows nothing of the chain: a chain that its own graph refers to would never be freed.
    """
    names, inputs = list(after), list(anchors.values())
    place = {id(x): i for i, x in enumerate(inputs)}
    for x in (x for step in steps for x in step.outside):
        if id(x) not in place:
            place[id(x)] = len(inputs)
            inputs.append(x)

    def pull(cotangents: list[Tensor | None]) -> list[Tensor | None]:
        v = {name: bar for name, bar in zip(names, cotangents, strict=True) if bar is not None}
        back = rule.pull(steps, v, stats)
        bars: list[Tensor | None] = [back.start.get(name) for name in anchors]
        bars += [None] * (len(inputs) - len(bars))
        for step, more in back.outside:
            for x, bar in zip(step.outside, more, strict=True):
                i, old = place[id(x)], bars[place[id(x)]]
                bars[i] = bar if old is None else old if bar is None else old + bar
        return bars

    return dict(zip(names, gate(list(after.values()), inputs, mark, pull), strict=True))
