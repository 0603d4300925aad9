"""How the tasks of a batch are laid out, and how they are run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from metafunc import errors, options, tree
from metafunc.captured import vmap
from metafunc.generators import undisturbed
from metafunc.plug import Plug
from metafunc.tree import Tree


@dataclass(frozen=True, slots=True)
class Listed:
    """What a list of tasks has in the place of a tree of tensors with a leading axis: a tree for each task."""

    parts: tuple[Tree, ...]


class Batching(Plug, ABC):
    """How the tasks of a batch are run; all ways give the same result."""

    __slots__ = ()

    @abstractmethod
    def map(
        self, fn: Callable[..., tuple[Tree, Tree]], theta: Tree, tasks: tuple[Tree, ...], count: int
    ) -> tuple[Tree, Tree]:
        """``fn(theta, *task) -> (summed, stacked)`` over the tasks: the sum of the first, the second stacked."""


@dataclass(frozen=True, slots=True, repr=False)
class Vmap(Batching):
    """All tasks at once (the fastest, with the memory of all), or ``chunk`` tasks at a time.

    Attributes:
        chunk: How many tasks at a time. Default: all.
        randomness: As for ``torch.func.vmap``, for losses that draw random numbers.

    Raises:
        RuntimeError: If torch cannot map what is computed, though it can compute it for a single task.
    """

    chunk: int | None = None
    randomness: str = "error"

    def __post_init__(self) -> None:
        options.integer("chunk", self.chunk, 16, optional=True)
        options.choice("randomness", self.randomness, "error", "same", "different")

    def map(
        self, fn: Callable[..., tuple[Tree, Tree]], theta: Tree, tasks: tuple[Tree, ...], count: int
    ) -> tuple[Tree, Tree]:
        """See :class:`Vmap`."""
        tasks = tree.map(lambda leaf: _together(leaf.parts) if isinstance(leaf, Listed) else leaf, tasks)
        total, parts = None, []
        size = self.chunk or count
        for start in range(0, count, size):
            part = tree.index(tasks, slice(start, start + size))
            dims = (tree.map(lambda _: None, theta), *tree.axes(part))
            here = min(size, count - start)
            try:
                summed, stacked = vmap(fn, dims, here, self.randomness)(theta, *part)
            except (RuntimeError, TypeError, ValueError) as error:
                if not _is_foreign(error) or not _runs(fn, theta, tree.index(part, 0)):
                    raise
                raise errors.cannot_be_mapped(error) from error
            summed = tree.map(lambda x: None if x is None else x.sum(0), summed)
            total = summed if total is None else tree.merge(summed, total)
            parts.append(stacked)
        return total, tree.cat(parts)


@dataclass(frozen=True, slots=True, repr=False)
class Loop(Batching):
    """One task after the other: the least memory, no demands on the model, and tasks of different size."""

    def map(
        self, fn: Callable[..., tuple[Tree, Tree]], theta: Tree, tasks: tuple[Tree, ...], count: int
    ) -> tuple[Tree, Tree]:
        """See :class:`Loop`. Outcomes whose shapes differ are a list in the place of a stacked tensor."""
        total, parts = None, []
        for i in range(count):
            summed, stacked = fn(theta, *single(tasks, i))
            total = summed if total is None else tree.merge(summed, total)
            parts.append(stacked)
        return total, tree.map(_stacked, *parts)


def is_list_of_tasks(value: Any) -> bool:
    """Whether this is a list with a mapping for each task, in the place of tensors with a leading axis of tasks."""
    if not isinstance(value, list):
        return False
    tasks = cast("list[Any]", value)
    return all(isinstance(task, Mapping) for task in tasks)


def gathered(tasks: list[Mapping[str, Tree]]) -> dict[str, Listed]:
    """A list of tasks as what every argument is for all of them, by name.

    Raises:
        ValueError: If there are no tasks, or they have no support or query set, or other entries than the first one.
    """
    if not tasks:
        raise errors.no_tasks()
    for i, task in enumerate(tasks):
        if not {"support", "query"} <= set(task) or set(task) != set(tasks[0]):
            raise errors.other_entries(i, list(task), list(tasks[0]))
    return {name: Listed(tuple(task[name] for task in tasks)) for name in tasks[0]}


def count(tasks: Tree) -> int:
    """How many tasks there are, from the leading axes of all tensors.

    Raises:
        TypeError: If there are arrays that are no tensors.
        ValueError: If the axes differ in length, or there are no tasks.
    """
    found: set[int | None] = set()
    for path, leaf in zip(tree.paths(tasks), tree.leaves(tasks), strict=True):
        if isinstance(leaf, Listed):
            found.add(len(leaf.parts))
            check_tensors(leaf.parts)
        elif isinstance(leaf, Tensor):
            found.add(leaf.shape[0] if leaf.ndim else None)
        else:
            _check_leaf(path, leaf)
    if len(found) != 1 or None in found:
        raise errors.uneven_tasks(found)
    if found == {0}:
        raise errors.no_tasks()
    return found.pop() or 0


def check_tensors(data: Tree) -> None:
    """Raises where there is an array of another library."""
    for path, leaf in zip(tree.paths(data), tree.leaves(data), strict=True):
        _check_leaf(path, leaf)


def single(tasks: Tree, i: int) -> Tree:
    """One of the tasks."""
    return tree.map(
        lambda leaf: (
            leaf.parts[i] if isinstance(leaf, Listed) else leaf[i] if isinstance(leaf, Tensor) else leaf
        ),
        tasks,
    )


def _check_leaf(path: str, leaf: Any) -> None:
    if not isinstance(leaf, Tensor) and hasattr(leaf, "__array__") and getattr(leaf, "ndim", 1):
        raise errors.not_a_tensor(path, leaf)


def _together(parts: tuple[Tree, ...]) -> Tree:
    """Tasks of one shape as a tree of stacked tensors; what is no tensor is carried along."""
    kinds = [(tree.structure(part), [_kind(leaf) for leaf in tree.leaves(part)]) for part in parts]
    for i, kind in enumerate(kinds):
        if kind != kinds[0]:
            raise errors.tasks_of_different_size(i, _shapes(parts[i]), _shapes(parts[0]))
    return tree.map(lambda *x: torch.stack(x) if isinstance(x[0], Tensor) else x[0], *parts)


def _kind(leaf: Any) -> Any:
    """What is the same in leaves that can be stacked."""
    return (leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf


def _shapes(part: Tree) -> list[Any]:
    return [list(leaf.shape) if isinstance(leaf, Tensor) else leaf for leaf in tree.leaves(part)]


def _stacked(*leaves: Any) -> Any:
    if leaves[0] is None:
        return None
    return torch.stack(leaves) if len({leaf.shape for leaf in leaves}) == 1 else list(leaves)


def _is_foreign(error: Exception) -> bool:
    """Whether an error is not one of this package's own, which say themselves what to do."""
    return not isinstance(error, errors.SecondDerivativeError | errors.ForwardModeError) and "mf." not in str(
        error
    )


def _runs(fn: Callable[..., Any], theta: Tree, task: tuple[Tree, ...]) -> bool:
    """Whether one task alone runs without an error; if not, the first error says more than that of mapping."""
    try:
        with undisturbed((theta, task)):
            fn(theta, *task)
    except Exception:
        return False
    return True
