"""What every outer loop does: it takes batches of tasks, and turns gradients into an update."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metafunc import errors, tree
from metafunc.tree import Tree


def sets(tasks: Any) -> tuple[Tree, Tree]:
    """Support and query of a batch of tasks: a mapping with these names, or a pair.

    Raises:
        ValueError: If it is neither.
    """
    given: Any = tasks
    if isinstance(tasks, dict):
        if not {"support", "query"} <= set(given):
            raise errors.no_sets(f"a mapping with {sorted(map(str, given))}")
        return given["support"], given["query"]
    if not isinstance(tasks, tuple | list) or len(given) != 2:
        raise errors.no_sets(errors.describe(given))
    return given[0], given[1]


def count(support: Tree) -> int:
    """How many tasks there are in a batch of support sets."""
    return next(len(x) for x in tree.leaves(support) if isinstance(x, Tensor))


def check_outer(module: nn.Module, optimizer: Any, clip: float | None, name: str = "module") -> None:
    """Raises unless this is an optimizer of the module's parameters, and a norm to clip at or none."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise errors.not_a("optimizer", f"a torch.optim optimizer of the {name}'s parameters", optimizer)
    if clip is not None and not clip > 0:
        raise errors.out_of_range("clip", clip, "a positive number or None", "e.g. clip=10.0")
    own = {id(p) for p in module.parameters()}
    given = [id(p) for group in optimizer.param_groups for p in group["params"]]
    strangers = sum(p not in own for p in given)
    if strangers:
        raise errors.parameters_of_another(name, strangers, len(given))


def update(optimizer: torch.optim.Optimizer, scheduler: Any, clip: float | None) -> Tensor:
    """Clips the gradients, takes the step, and says how long the gradient was before."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    size = torch.nn.utils.clip_grad_norm_(params, float("inf") if clip is None else clip)
    optimizer.step()
    if scheduler is not None:
        scheduler.step()
    return size
