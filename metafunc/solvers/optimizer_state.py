"""The state of a functional optimizer as tensors that estimators can store, stack and differentiate.

An optimizer's state is a tree of tensors and other values: counters, flags, ``None`` where a moment is not there yet.
Some optimizers remember things beside it, in closures or attributes. Neither depends on data, so that both are
functions of the number of steps taken: a dry run writes them down, and every step looks them up. So a step that is run
again, in another task or out of its order finds everything as it was the first time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from metafunc import autodiff, errors, tree
from metafunc.solvers.hidden import Memory, alike, memory, recalled, tensors_changed
from metafunc.tree import Skeleton, Tree

Update = Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]
"""From gradients, state and parameters to updates and the next state."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The state after some number of steps: what is no tensor in it, where its tensors are kept, what is hidden."""

    skeleton: Skeleton
    slots: list[int]
    hidden: Memory


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor of the state. Integers are carried as floats: what estimators do with states (sums, differences, zeros)
    is then the same for all of it."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    @property
    def carried(self) -> torch.dtype:
        """The dtype that it is carried in; phi's own might be too coarse to count in."""
        return self.dtype if self.dtype.is_floating_point else torch.float32

    def zeros(self) -> Tensor:
        """Before it is part of the state."""
        return torch.zeros(self.shape, dtype=self.carried, device=self.device)


@dataclass(frozen=True, slots=True)
class Plan:
    """The layouts for parameters of one kind.

    Attributes:
        layouts: One for every number of steps, from none to all.
        slots: Every tensor that is ever part of the state.
        steady: Whether all layouts are the same, so that nothing depends on the number of steps.
    """

    layouts: list[Layout]
    slots: list[Slot]
    steady: bool

    def at(self, taken: int) -> Layout:
        """The layout after so many steps."""
        return self.layouts[0 if self.steady else taken]

    def pack(self, state: Tree, taken: int) -> list[Tensor]:
        """The tensors of a state, each in its slot."""
        tensors, skeleton = tree.take_tensors(state)
        layout = self.at(taken)
        if skeleton != layout.skeleton:
            raise errors.optimizer_state("one that depends on the data beyond its tensors")
        present = dict(zip(layout.slots, tensors, strict=True))
        return [
            present[i].to(slot.carried) if i in present else slot.zeros() for i, slot in enumerate(self.slots)
        ]

    def unpack(self, carried: list[Tensor], taken: int) -> Tree:
        """The state."""
        layout = self.at(taken)
        return layout.skeleton.fill([carried[i].to(self.slots[i].dtype) for i in layout.slots])


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """The states of one optimizer.

    Attributes:
        optimizer: The optimizer, which is left as it is.
        update: Its update.
        steps: How many steps are planned for.
    """

    optimizer: Any
    update: Update
    steps: int
    hidden: Memory = field(init=False)
    plans: list[tuple[Any, int, Plan]] = field(default_factory=list[tuple[Any, int, Plan]], init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", memory(self.optimizer))

    def first(self, phi: Tree) -> list[Tensor]:
        """What is carried before the first step: the tensors of the state and, if need be, the number of steps."""
        plan = self._plan(phi, self.steps)
        if plan.steady:
            return plan.pack(self.optimizer.init(phi), 0)
        with recalled(self.hidden):
            carried = plan.pack(self.optimizer.init(phi), 0)
        return [*carried, torch.zeros_like(tree.leaves(phi)[0].sum(), dtype=torch.float32)]

    def next(self, slope: Tree, carried: list[Tensor], phi: Tree) -> tuple[Tree, list[Tensor]]:
        """The updates of one step, and what is carried after it."""
        plan = self._plan(phi, self.steps)
        # Under vmap an optimizer may write into its state, which has to be as batched as gradients and tangents are.
        zero = sum((0.0 * torch.nan_to_num(x)).sum() for x in tree.leaves(slope))
        if plan.steady:
            state = plan.unpack([x + zero for x in carried], 0)
            updates, after = self.update(slope, state, phi)
            return updates, plan.pack(after, 0)
        *carried, number = carried
        values = set(autodiff.plain_values(number) or [])
        if len(values) != 1:
            raise errors.optimizer_side_by_side()
        taken = int(values.pop())
        if taken >= self.steps:  # a perturbed problem may be solved with more steps
            plan = self._plan(phi, 2 * taken)
        state = plan.unpack([x + zero for x in carried], taken)
        with recalled(plan.at(taken).hidden):
            updates, after = self.update(slope, state, phi)
        return updates, [*plan.pack(after, taken + 1), number + 1]

    def _plan(self, phi: Tree, steps: int) -> Plan:
        kind = tree.structure(phi), [(x.shape, x.dtype, x.device) for x in tree.leaves(phi)]
        for known, count, plan in self.plans:
            if count >= steps and known == kind:
                return plan
        with recalled(self.hidden), autodiff.trial(phi) as at, torch.no_grad():
            # Contiguous, whatever phi is: an optimizer may write into what it made of its parameters.
            ones = tree.map(lambda x: torch.ones(x.shape, dtype=x.dtype, device=x.device), at)
            plan = self._dry_run(ones, steps)
        self.plans.append((kind, steps, plan))
        return plan

    def _dry_run(self, ones: Tree, steps: int) -> Plan:
        state = self.optimizer.init(ones)
        places: dict[str, int] = {}
        slots: list[Slot] = []
        layouts: list[Layout] = []
        for taken in range(steps + 1):
            here: list[int] = []
            for path, x in zip(tree.paths(state), tree.leaves(state), strict=True):
                if isinstance(x, Tensor):
                    slot = Slot(x.shape, x.dtype, x.device)
                    if path not in places:
                        places[path] = len(slots)
                        slots.append(slot)
                    here.append(places[path])
                    if slots[places[path]] != slot:
                        raise errors.optimizer_state(f"one with a tensor that changes its shape, at {path}")
                elif not isinstance(x, _PLAIN):
                    raise errors.optimizer_state(f"one with {errors.describe(x)} in it, at {path}")
            layouts.append(Layout(tree.take_tensors(state)[1], here, memory(self.optimizer)))
            if tensors_changed(self.hidden, layouts[-1].hidden):
                raise errors.optimizer_state("one that keeps tensors elsewhere")
            if taken < steps:
                state = self.update(ones, state, ones)[1]
        first = layouts[0]
        steady = all(x.skeleton == first.skeleton and alike(x.hidden, first.hidden) for x in layouts)
        return Plan(layouts[:1] if steady else layouts, slots, steady)


_PLAIN = (int, float, complex, str, bytes, type(None), type, FunctionType, torch.dtype, torch.device, Enum)
