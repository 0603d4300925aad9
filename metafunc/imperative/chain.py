"""The steps of an inner loop, and the estimator that differentiates them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from metafunc.estimator import Estimator
from metafunc.estimators import Explicit
from metafunc.imperative.errors import changed_in_place, no_fast_weights
from metafunc.imperative.gate import Mark, Switch, gate, marked
from metafunc.imperative.reach import Edge, check_loss, edge, edges, feeds, reach
from metafunc.imperative.record import (
    State,
    Step,
    Vector,
    bent_gradients,
    detached,
    gradients,
    merged,
    named,
    renamed,
)
from metafunc.imperative.rules import Rule, rule_of
from metafunc.rule import Stats

Update = Callable[[list[Tensor | None], list[Tensor], State], tuple[list[Tensor], State]]
"""From gradients (``None`` where the loss does not depend on a parameter), parameters and state to the next two."""


class Chain:
    """The steps of an inner loop that somebody else's code takes, differentiated by an estimator.

    The user computes an inner loss from :attr:`params` and hands it to :meth:`step`, as often as they like, and at the
    end an outer loss from :attr:`params`; eager ``backward()`` and ``torch.autograd.grad`` then give the meta-gradient.

    Maths: that of the estimator, with the step ``(params, state) -> (params, state)`` that the user's loss and update
    make up. ``Explicit``: plain autograd. ``FirstOrder``: the identity to ``first``, and what the updates themselves
    depend on, such as learned rates, with all gradients as constants. ``Truncated(depth)``: the last
    ``depth`` steps, and the identity in the parameters before. ``Binomial``: binommaml (8) over the kept steps;
    an order above the number of steps taken counts as that number. ``Implicit``: the implicit function theorem for the
    gradient of the last inner loss, where it was taken.

    Where gradients flow: to ``first``, to every leaf tensor that a kept step depends on, such as a learned rate, and to
    the fast parameters of other loops. A gradient asked for at an intermediate result that a loss depends on does not
    see the loop, unless ``Explicit`` is the rule.

    Exact when: as the estimator. Second derivatives are those of autograd for ``Explicit`` and are refused otherwise.

    Cost: that of the estimator. Memory: the graphs of all steps for ``Explicit``, of ``window`` steps for ``Binomial``,
    of ``depth`` for ``Truncated``, of one gradient for ``Implicit``, none for ``FirstOrder`` (the graphs of the updates
    alone if they depend on anything that is differentiated).

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
        ZeroGradientError: In the backward, for a leaf that is asked for its gradient and that the losses or the updates
            depend on, if no kept step does and it gets no gradient from elsewhere; and under ``Implicit``, if the last
            loss depends on nothing beside the fast parameters.
        SecondDerivativeError: For a derivative of a derivative, under all estimators but ``Explicit``.
    """

    def __init__(
        self, first: Sequence[Tensor], estimator: Estimator = Explicit(), state: State = None
    ) -> None:
        self._rule = rule_of(estimator)
        self._kept: tuple[Step, ...] = ()
        self._missed: dict[Edge, Tensor] = {}
        self.steps = 0
        self.params, self.state = list(first), state
        self.stats: Stats = {}
        if self._rule is not None:
            start = named(self.params, None)
            self._mark = Mark(repr(estimator), len(start), Switch())
            moved = gate(list(start.values()), list(start.values()), self._mark, lambda bars: bars)
            self._anchors = dict(zip(start, moved, strict=True))
            self._reached = edges(moved) | set(reach(start.values(), set()))
            self.params, _ = renamed(self.params, None, self._anchors)
        self._seen = self._versions()

    @property
    def plain(self) -> bool:
        """Whether autograd differentiates the loop by itself."""
        return self._rule is None

    @property
    def bends(self) -> bool:
        """Whether the gradients of the losses are differentiated."""
        return self._rule is None or self._rule.bends

    @property
    def moves(self) -> bool:
        """Whether the updates are differentiated."""
        return self._rule is None or self._rule.moves

    def step(self, loss: Tensor, update: Update) -> None:
        """Take one step: the gradient of ``loss`` at :attr:`params`, then ``update``.

        Args:
            loss: A scalar computed from :attr:`params`.
            update: ``update(grads, params, state) -> (params, state)``, made of differentiable operations. The state is
                ``None`` at first unless one was given, and then what the update before returned.

        Raises:
            ValueError: If ``loss`` does not depend on the fast parameters, or depends on those of an earlier step, or
                on them through another loop's steps.
            NotImplementedError: If the loss holds a ``torch.utils.checkpoint``, which would recompute it with other
                parameters than those of this step.
            RuntimeError: If the fast parameters were modified in place.
        """
        if self._versions() != self._seen:
            raise changed_in_place()
        fast = edges(named(self.params, None).values())
        if not fast or not loss.requires_grad:
            raise no_fast_weights()
        check_loss(loss, fast, curved=self._rule is not None and self.bends)
        rule, grads = self._rule, self._gradient(loss, fast)
        if rule is None:
            params, self.state = update(grads, self.params, self.state)
            self.params = marked(params)
        else:
            self._record(rule, grads, update)
        self._seen = self._versions()
        self.steps += 1

    def _gradient(self, loss: Tensor, fast: set[Edge]) -> list[Tensor | None]:
        wanted = named(self.params, None)
        at = list(wanted.values())
        if self.bends:
            found = bent_gradients([loss], at)
        else:
            beside = reach([loss], fast)
            unknown = bool(beside.keys() - self._missed.keys() - self._reached)
            found = gradients([loss], at, create_graph=unknown)
            if unknown:
                self._miss(feeds([g for g in found if g is not None], beside, fast))
        if all(g is None for g in found):
            raise no_fast_weights()
        by_name = dict(zip(wanted, found, strict=True))
        return [by_name.get(str(i)) for i in range(len(self.params))]

    def _record(self, rule: Rule, grads: list[Tensor | None], update: Update) -> None:
        points, slopes = self.params, grads
        if not (rule.bends and rule.moves):
            points, slopes = detached(points), detached(grads)
        # The state that the loop starts with is no part of the chain, but something beside it.
        before = named(points, self.state if self.steps else None)
        params, state = update(slopes, points, self.state)
        after = named(params, state)
        if rule.moves:
            if after:
                self._keep(rule, Step(before, after, self._mark))
        else:
            if rule.bends:
                self._keep(rule, self._slope(grads))
            self._miss(reach(after.values(), set()))
            params, state, after = detached(params), detached(state), {}
        values = {name: params[int(name)] for name in self._anchors} | after
        self._mark = self._mark.following()
        moved = _gated(rule, self._kept, values, self._anchors, self._missed, self._mark, self.stats)
        self.params, self.state = renamed(params, state, moved)

    def _slope(self, grads: list[Tensor | None]) -> Step:
        slope = {str(i): g for i, g in enumerate(grads) if g is not None}
        points = {name: self.params[int(name)] for name in slope}
        bent = {name: g for name, g in slope.items() if g.requires_grad}
        return Step(points, bent, self._mark)

    def _keep(self, rule: Rule, step: Step) -> None:
        steps = (*self._kept, step)
        room = len(steps) if rule.keep is None else rule.keep
        for old in steps[:-room]:
            self._miss(old.outside)
            old.drop()
        self._kept = steps[-room:]

    def _miss(self, tensors: dict[Edge, Tensor]) -> None:
        """Note what a step has depended on that no recorded step may tell of."""
        self._missed |= {place: x for place, x in tensors.items() if place not in self._reached}

    def _versions(self) -> list[int]:
        return [x._version for x in self.params]


def _gated(
    rule: Rule,
    steps: tuple[Step, ...],
    after: Vector,
    anchors: Vector,
    missed: dict[Edge, Tensor],
    mark: Mark,
    stats: Stats,
) -> Vector:
    """The tensors after a step as functions of the first parameters and of what the steps depend on beside them.

    It knows nothing of the chain: a chain that its own graph refers to would never be freed.
    """
    names, beside = list(after), dict(missed)
    for step in steps:
        beside |= step.outside
    first = {edge(x): name for name, x in anchors.items()}
    inputs = [*anchors.values(), *(x for place, x in beside.items() if place not in first)]
    places = [edge(x) for x in inputs]

    def pull(cotangents: list[Tensor | None]) -> list[Tensor | None]:
        v = {name: bar for name, bar in zip(names, cotangents, strict=True) if bar is not None}
        back = rule.pull(steps, v, stats)
        start = {place: back.start[name] for place, name in first.items() if name in back.start}
        bars = merged(start, back.outside)
        return [bars.get(place) for place in places]

    return dict(zip(names, gate(list(after.values()), inputs, mark, pull), strict=True))
