"""What TorchOpt's imperative differentiable optimizers have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn as nn
from torch import Tensor

from metafunc import errors, tree
from metafunc.estimator import Estimator
from metafunc.estimators import Explicit
from metafunc.imperative import Chain, detached
from metafunc.interop.errors import other_state
from metafunc.interop.modules import Slot, fill, slots
from metafunc.interop.rebase import rebased
from metafunc.solvers.optimizer_loop import safe_update
from metafunc.tree import Tree


class States(tuple[Tree, ...]):
    """The states of an optimizer's groups, one tree each, and the estimator that made them."""

    estimator: Estimator | None = None

    @classmethod
    def of(cls, groups: Sequence[Tree], estimator: Estimator | None) -> States:
        """The states as they are."""
        states = cls(groups)
        states.estimator = estimator
        return states

    def map(self, fn: Callable[[Tensor], Tensor]) -> States:
        """The same with every tensor replaced."""
        changed = [tree.map(lambda x: fn(x) if isinstance(x, Tensor) else x, state) for state in self]
        return States.of(changed, self.estimator)


class MetaOptimizer:
    """Steps of a functional optimizer on a module's parameters, which an estimator differentiates.

    Maths: ``step(loss)`` puts ``phi_{k+1} = phi_k + update(grad loss)`` in the place of the module's parameters
    ``phi_k``. The new ones are tensors with a history, not ``nn.Parameter``: a loss of the module as it then is has a
    derivative with respect to the parameters that the module had at first, namely that of the estimator.

    Source: ``torchopt.MetaOptimizer`` 0.7.3, whose signature and calls these are. Differs in: any estimator, not only
    backpropagation through all steps; tied parameters stay tied, and frozen ones stay as they are; square roots of an
    update have the derivative zero at zero, in place of an infinite one that turns into NaN; and there is a state from
    the beginning, so that ``state_dict()`` can be put back at any time.

    The steps are one chain for as long as the optimizer finds in the module what it put there. Where something else
    stands (after :func:`recover_state_dict`, say), a new chain begins with that.

    Args:
        module: The module whose parameters are to be replaced.
        impl: A functional optimizer such as ``torchopt.adam(0.01)`` or a ``torchopt.chain(...)``.
        estimator: How the steps are differentiated. Default: ``Explicit()``, as TorchOpt does.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If the module has nothing to train.

    Example:
        >>> optimizer = MetaOptimizer(net, torchopt.adam(0.01), estimator=mf.Truncated(2))
    """

    def __init__(self, module: nn.Module, impl: Any, *, estimator: Estimator | None = None) -> None:
        if not all(callable(getattr(impl, name, None)) for name in ("init", "update")):
            raise errors.not_a("impl", "a functional optimizer such as torchopt.adam(0.01)", impl)
        if estimator is not None and not isinstance(estimator, Estimator):
            raise errors.not_a("estimator", "an estimator such as mf.Explicit()", estimator)
        self.impl = impl
        self.estimator: Estimator = Explicit() if estimator is None else estimator
        self._plain = Chain([], self.estimator).plain  # raises for an estimator that cannot serve
        self._groups: list[list[Slot]] = []
        self._states: list[Tree] = []
        self._chain: Chain | None = None
        self._left: list[tuple[Tensor, bool]] = []  # what the last step put there, and whether it was a leaf
        self.add_param_group(module)

    def add_param_group(self, module: nn.Module) -> None:
        """Optimize the parameters of another module too, with a state of their own."""
        if not isinstance(module, nn.Module):
            raise errors.not_a("module", "an nn.Module", module)
        group = [slot for slot in slots(module) if slot.get().requires_grad]
        if not group:
            raise errors.nothing_to_train(type(module).__name__)
        self._groups.append(group)
        self._states.append(self._fresh(group))
        self._chain = None

    def step(self, loss: Tensor) -> None:
        """Replace the parameters of all modules by those one step further.

        Raises:
            ValueError: If the loss does not depend on the parameters as they are now.
        """
        held, chain = [slot.get() for slot in self._places], self._chain
        if chain is None or not _same(held, self._left):
            chain = Chain(held, self.estimator, state=self._states)
            if any(x is not y for x, y in zip(held, chain.params, strict=True)):
                loss = rebased(loss, held, chain.params, chain.bends)
        chain.step(loss, self._update)
        fill(self._places, chain.params)
        self._left = [(x, x.is_leaf) for x in chain.params]
        self._states, self._chain = list(chain.state), chain

    def state_dict(self) -> States:
        """The states of the groups: references, not copies."""
        return States.of(self._states, self.estimator)

    def load_state_dict(self, state_dict: Sequence[Tree]) -> None:
        """Go on with other states.

        Raises:
            ValueError: If they are not those of such an optimizer with this estimator.
        """
        kept = getattr(state_dict, "estimator", None)
        if kept is not None and kept != self.estimator:
            raise other_state("estimator", repr(self.estimator), repr(kept))
        expected = States.of([self._fresh(group) for group in self._groups], None)
        found, wanted = _outline(state_dict), _outline(expected)
        if found != wanted:
            raise other_state("optimizer", wanted, found)
        self._states = list(state_dict)
        self._chain = None

    @property
    def _places(self) -> list[Slot]:
        return [slot for group in self._groups for slot in group]

    def _update(self, grads: Tree, params: Tree, states: Tree) -> tuple[Tree, Tree]:
        """One update of every group."""
        moved: list[Tensor] = []
        after: list[Tree] = []
        start = 0
        for group, state in zip(self._groups, states, strict=True):
            here = slice(start, start := start + len(group))
            updates, new = safe_update(self.impl, tuple(grads[here]), state, tuple(params[here]))
            moved += [p if u is None else p + u for p, u in zip(params[here], updates, strict=True)]
            after.append(new)
        return moved, after

    def _fresh(self, group: list[Slot]) -> Tree:
        state = self.impl.init(tuple(slot.get().detach() for slot in group))
        # Some moments ask for a gradient from the first. Nobody has these, so that nobody could miss it.
        return state if self._plain else detached(state)


def _same(held: list[Tensor], left: list[tuple[Tensor, bool]]) -> bool:
    """Whether these are still the tensors that were left, and nobody has cut them off their graph."""
    return all(x is y and x.is_leaf == leaf for x, (y, leaf) in zip(held, left, strict=True))


def _outline(states: Any) -> str:
    """In few words what the states of some groups are: the names of their parts, and the shapes in them."""
    groups: list[str] = []
    for state in states:
        parts: list[Any] = list(state) if type(state) is tuple else [state]
        shapes = [str(list(x.shape)) if isinstance(x, Tensor) else repr(x) for x in tree.leaves(state)]
        groups.append(
            f"({', '.join(type(part).__name__ for part in parts)}) of {' '.join(shapes) or 'nothing'}"
        )
    return "; ".join(groups)
