"""Adam, with a derivative wherever it has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metafunc import options, tree
from metafunc.inner import Args, Gradient, Inner, remembered
from metafunc.settings import Setting, check_setting
from metafunc.solvers.problem import check_limits, problem
from metafunc.tree import Tree


@remembered
def adam(
    loss: Callable[..., Tensor] | None = None,
    *,
    lr: Setting,
    steps: int,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    prox: Setting = 0.0,
    weight_decay: Setting = 0.0,
    tolerance: float = 0.0,
    early_exit: bool = True,
    objective: Callable[..., Tensor] | None = None,
    init: Callable[[Tree], Tree] | None = None,
) -> Inner:
    """``steps`` steps of Adam on a task's loss, from ``theta``.

    Maths: ``m <- b1 m + (1 - b1) g``, ``v <- b2 v + (1 - b2) g^2`` with ``g`` the gradient of the objective, and
    ``phi <- phi - lr m^ / (sqrt(v^) + eps)`` with the moments freed of their bias. This is ``torch.optim.Adam``.

    Source: Kingma and Ba 2015.

    At a coordinate whose gradient has been exactly zero so far (a dead unit, a padded row) the square root has no
    derivative, and a plain implementation gives NaN in the meta-gradient. The update as a whole has one there,
    ``lr / eps`` for a first step, and this one gives it.

    Args:
        loss: As for :func:`gradient_descent`.
        lr: As for :func:`gradient_descent`.
        steps: ``K``, the number of steps.
        betas: ``(b1, b2)``, each in ``[0, 1)``.
        eps: A positive number.
        prox: As for :func:`gradient_descent`.
        weight_decay: As for :func:`gradient_descent`. (For the decoupled decay of AdamW use
            ``optimizer_loop(loss, torchopt.adamw(...), steps=...)``.)
        tolerance: As for :func:`gradient_descent`.
        early_exit: As for :func:`gradient_descent`.
        objective: As for :func:`gradient_descent`.
        init: As for :func:`gradient_descent`.

    Cost: ``K`` gradients.

    Raises:
        ValueError, TypeError: As for :func:`gradient_descent`.
    """
    check_limits(steps, tolerance, early_exit)
    check_setting("lr", lr, 0.01, ends="()")
    options.pair("betas", betas, (0.9, 0.999))
    for i, beta in enumerate(betas):
        options.number(f"betas[{i}]", beta, (0.9, 0.999)[i], high=1.0)
    options.positive("eps", eps, 1e-8)
    goal = problem("adam", loss, objective, init, lr=lr, prox=prox, weight_decay=weight_decay)
    read, (b1, b2) = goal.settings.readers, betas

    def begin(phi: Tree) -> tuple[Tree, ...]:
        none = torch.zeros_like(tree.leaves(phi)[0].sum())
        return phi, tree.zeros_like(phi), tree.zeros_like(phi), (none, none)

    def step(gradient: Gradient, state: Tree, args: Args) -> Tree:
        # c1 and c2 are 1 - b^k, the averages of a constant 1: free of the cancellation in that difference.
        phi, m, v, (c1, c2) = state
        slope = gradient(phi, args)
        m = tree.map(lambda a, g: b1 * a + (1 - b1) * g, m, slope)
        v = tree.map(lambda a, g: b2 * a + (1 - b2) * g * g, v, slope)
        c1, c2 = b1 * c1 + (1 - b1), b2 * c2 + (1 - b2)

        def direction(a: Tensor, b: Tensor) -> Tensor:
            return (a / c1) / (safe_sqrt(b / c2) + eps)

        phi = tree.sub(phi, tree.scale(read["lr"](args), tree.map(direction, m, v)))
        return phi, m, v, (c1, c2)

    name = f"adam(steps={steps})"
    return goal.inner(name, steps=steps, step=step, begin=begin, tolerance=tolerance, early_exit=early_exit)


def safe_sqrt(x: Any) -> Tensor:
    """The square root, with derivative zero at zero."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0 * x)
