"""Gradient descent: plain, with momentum, and Nesterov's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from metafunc import errors, options, tree
from metafunc.inner import Args, Gradient, Inner, remembered
from metafunc.settings import Setting, check_setting
from metafunc.solvers.problem import check_limits, problem
from metafunc.tree import Tree


@remembered
def gradient_descent(
    loss: Callable[..., Tensor] | None = None,
    *,
    lr: Setting,
    steps: int,
    prox: Setting = 0.0,
    weight_decay: Setting = 0.0,
    momentum: Setting = 0.0,
    nesterov: bool = False,
    tolerance: float = 0.0,
    early_exit: bool = True,
    objective: Callable[..., Tensor] | None = None,
    init: Callable[[Tree], Tree] | None = None,
) -> Inner:
    """``steps`` steps of gradient descent on a task's loss, from ``theta``.

    Maths: with ``g(phi) = loss(phi, *data) + prox/2 ||phi - init(theta)||^2 + weight_decay/2 ||phi||^2`` and
    ``phi_0 = init(theta)``, the step is ``phi <- phi - lr grad g(phi)``; with momentum
    ``m <- momentum m + grad g(phi)``, ``phi <- phi - lr m``; with ``nesterov`` instead
    ``phi <- phi - lr (grad g(phi) + momentum m)``. These are the conventions of ``torch.optim.SGD``.

    Source: binommaml (2b); imaml (4) for the proximal term; fo-b-maml (15) for ``objective``. A tree for ``lr``, a part
    of ``theta``, is Meta-SGD (Li et al. 2017).

    Args:
        loss: ``loss(phi, *data) -> scalar``, the user's own.
        lr: The inner learning rate: a float, a tensor, a tree shaped like the parameters, or a function of ``theta``
            to any of these. Gradients flow to the tensors.
        steps: ``K``, the number of steps.
        prox: The weight of the proximal term, of the same kinds as ``lr``.
        weight_decay: The weight of ``||phi||^2 / 2``, of the same kinds as ``lr``.
        momentum: In ``[0, 1)``, of the same kinds as ``lr``.
        nesterov: Nesterov's momentum.
        tolerance: A task whose gradient has a norm of at most this takes no further step, while others go on; once all
            tasks are there the loop ends. 0 takes all steps.
        early_exit: Whether the loop ends once all tasks have reached the tolerance; on a GPU the host waits at every
            step to see. ``False`` takes all steps without waiting, to the same result.
        objective: ``objective(phi, theta, *data) -> scalar``, in place of ``loss``, where the inner problem depends on
            ``theta`` in its own way (shared layers, learned regularisers). ``prox`` and ``weight_decay`` are added to
            it as well.
        init: From ``theta`` to the first ``phi``. Default: ``theta`` itself.

    Returns:
        An inner problem, to be wrapped in an estimator.

    Cost: ``K`` gradients.

    Raises:
        ValueError, TypeError: If an option is out of range or of another kind, or if not exactly one of ``loss`` and
            ``objective`` is given.
    """
    check_limits(steps, tolerance, early_exit)
    check_setting("lr", lr, 0.01, ends="()")
    check_setting("momentum", momentum, 0.9, high=1.0)
    options.boolean("nesterov", nesterov)
    has_momentum = not (isinstance(momentum, int | float) and momentum == 0)
    if nesterov and not has_momentum:
        raise errors.nesterov_without_momentum()
    goal = problem(
        "gradient_descent",
        loss,
        objective,
        init,
        lr=lr,
        prox=prox,
        weight_decay=weight_decay,
        momentum=momentum,
    )
    read = goal.settings.readers

    def plain(gradient: Gradient, state: Tree, args: Args) -> Tree:
        (phi,) = state
        return (_descend(phi, read["lr"](args), gradient(phi, args)),)

    def heavy(gradient: Gradient, state: Tree, args: Args) -> Tree:
        phi, velocity = state
        mu, slope = read["momentum"](args), gradient(phi, args)
        velocity = tree.add(tree.scale(mu, velocity), slope)
        direction = tree.add(slope, tree.scale(mu, velocity)) if nesterov else velocity
        return _descend(phi, read["lr"](args), direction), velocity

    return goal.inner(
        f"gradient_descent(steps={steps})",
        steps=steps,
        step=heavy if has_momentum else plain,
        begin=(lambda phi: (phi, tree.zeros_like(phi))) if has_momentum else (lambda phi: (phi,)),
        tolerance=tolerance,
        early_exit=early_exit,
    )


def nesterov(
    loss: Callable[..., Tensor] | None = None,
    *,
    smoothness: float,
    steps: int,
    strong_convexity: float = 0.0,
    prox: float = 0.0,
    tolerance: float = 0.0,
    early_exit: bool = True,
    objective: Callable[..., Tensor] | None = None,
    init: Callable[[Tree], Tree] | None = None,
) -> Inner:
    """Nesterov's accelerated gradient descent with the constants for strongly convex objectives.

    Maths: for a loss whose Hessian has eigenvalues in ``[mu, L]``, the objective has them in ``[mu + prox, L + prox]``,
    with condition number ``kappa``. Then ``lr = 1 / (L + prox)`` and
    ``momentum = (sqrt(kappa) - 1) / (sqrt(kappa) + 1)``.

    Source: imaml Lemma 2 and Table 1, which count on it: ``2 sqrt(kappa) log(2 kappa ||phi*|| / delta)`` gradients
    suffice for an error of ``delta``; gradient descent takes about ``kappa`` in place of ``sqrt(kappa)``. Returned is
    the point at which the next gradient would be taken.

    Args:
        loss: As for :func:`gradient_descent`.
        smoothness: ``L``, the largest eigenvalue of the Hessian of the loss.
        steps: ``K``, the number of steps.
        strong_convexity: ``mu``, the smallest eigenvalue of the Hessian of the loss; it may be negative if ``prox``
            makes up for it.
        prox: The weight of the proximal term.
        tolerance: As for :func:`gradient_descent`.
        early_exit: As for :func:`gradient_descent`.
        objective: As for :func:`gradient_descent`.
        init: As for :func:`gradient_descent`.

    Cost: ``K`` gradients.

    Raises:
        ValueError: If ``prox + strong_convexity`` is not positive, or above ``prox + smoothness``.
    """
    options.positive("smoothness", smoothness, 10.0)
    options.number("strong_convexity", strong_convexity, 0.1, low=-math.inf)
    options.number("prox", prox, 2.0)
    largest, smallest = smoothness + prox, strong_convexity + prox
    if not 0 < smallest <= largest:
        raise errors.out_of_range(
            "smoothness, strong_convexity, prox",
            (smoothness, strong_convexity, prox),
            "0 < strong_convexity + prox <= smoothness + prox",
            "e.g. smoothness=10.0, prox=2.0",
        )
    root = math.sqrt(largest / smallest)
    momentum = (root - 1) / (root + 1)
    return gradient_descent(
        loss,
        lr=1 / largest,
        steps=steps,
        prox=prox,
        momentum=momentum,
        nesterov=momentum > 0,
        tolerance=tolerance,
        early_exit=early_exit,
        objective=objective,
        init=init,
    )


def _descend(phi: Tree, lr: Any, direction: Tree) -> Tree:
    return tree.sub(phi, tree.scale(lr, direction))
