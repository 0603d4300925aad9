"""How long the gradients of the tasks are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metafunc import autodiff, tree
from metafunc.tree import Tree


def gradient_norms(loss: Callable[[Tree, Tree], Tensor], theta: Tree, support: Tree) -> Tensor:
    """``||grad f_j(theta)||`` for every task of a batch, before any adaptation.

    Source: the estimate (16) of hf-maml, for which :class:`~metafunc.optim.SmoothnessAdaptiveGD` wants them.

    Args:
        loss: ``loss(theta, support) -> scalar``, the inner loss of one task.
        theta: The meta-parameters, at which the gradients are taken.
        support: The support sets, with a leading axis of tasks.

    Shapes:
        [tasks]

    Cost: one gradient a task, all at once.
    """
    with torch.no_grad():
        return autodiff.vmap(lambda batch: tree.norm(autodiff.grad(loss, theta, batch)))(support)
