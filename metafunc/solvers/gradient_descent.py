"""Gradient descent: plain, with momentum, and Nesterov's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from metafunc import errors, tree
from metafunc.decorators import check_callable, check_steps
from metafunc.inner import Args, Gradient, Inner, from_theta, scalar
from metafunc.settings import Setting, Settings, check_setting
from metafunc.tree import Tree


def gradient_descent(
    loss: Callable[..., Tensor] | None = None,
    *,
    lr: Setting,
    steps: int,
    prox: Setting = 0.0,
    momentum: Setting = 0.0,
    nesterov: bool = False,
    objective: Callable[..., Tensor] | None = None,
    init: Callable[[Tree], Tree] | None = None,
) -> Inner:
    """``steps`` steps of gradient descent on a task's loss, from ``theta``.

    Maths: with ``g(phi) = loss(phi, *data) + prox/2 ||phi - init(theta)||^2`` and ``phi_0 = init(theta)``, the step is
    ``phi <- phi - lr grad g(phi)``; with momentum ``m <- momentum m + grad g(phi)``, ``phi <- phi - lr m``; with
    ``nesterov`` instead ``phi <- phi - lr (grad g(phi) + momentum m)``. These are the conventions of
    ``torch.optim.SGD``.

    Source: binommaml (2b); imaml (4) for the proximal term; fo-b-maml (15) for ``objective``.

    Args:
        loss: ``loss(phi, *data) -> scalar``, the user's own.
        lr: The inner learning rate: a float, a tensor, a tree shaped like the parameters, or a function of ``theta``
            to any of these. Gradients flow to the tensors.
        steps: ``K``, the number of steps.
        prox: The weight of the proximal term, of the same kinds as ``lr``.
        momentum: In ``[0, 1)``, of the same kinds as ``lr``.
        nesterov: Nesterov's momentum.
        objective: ``objective(phi, theta, *data) -> scalar``, in place of ``loss``, where the inner problem depends on
            ``theta`` in its own way (shared layers, learned regularisers). ``prox`` is added to it as well.
        init: From ``theta`` to the first ``phi``. Default: ``theta`` itself.

    Returns:
        An inner problem, to be wrapped in an estimator.

    Cost: ``K`` gradients.

    Raises:
        ValueError, TypeError: If an option is out of range or of another kind, or if not exactly one of ``loss`` and
            ``objective`` is given.
    """
    if (loss is None) == (objective is None):
        raise errors.loss_or_objective()
    check_callable(loss or objective, "gradient_descent", "loss(phi, *data) -> scalar")
    check_steps(steps)
    check_setting("lr", lr, 0, math.inf, True, "e.g. lr=0.01")
    check_setting("prox", prox, 0, math.inf, False, "e.g. prox=2.0")
    check_setting("momentum", momentum, 0, 1, False, "e.g. momentum=0.9")
    if nesterov and isinstance(momentum, int | float) and momentum == 0:
        raise errors.nesterov_without_momentum()

    settings = Settings({"lr": lr, "prox": prox, "momentum": momentum})
    read = settings.readers
    start = from_theta(init)
    data_term = _data_term(loss, objective)
    has_prox = not (isinstance(prox, int | float) and prox == 0)
    has_momentum = not (isinstance(momentum, int | float) and momentum == 0)

    def proximal(phi: Tree, args: Args) -> Tensor:
        value = data_term(phi, args)
        if not has_prox:
            return value
        away = tree.sub(phi, start(args))
        return value + 0.5 * tree.dot(away, tree.scale(read["prox"](args), away))

    def plain(gradient: Gradient, state: Tree, args: Args) -> Tree:
        (phi,) = state
        return (_descend(phi, read["lr"](args), gradient(phi, args)),)

    def heavy(gradient: Gradient, state: Tree, args: Args) -> Tree:
        phi, velocity = state
        mu, slope = read["momentum"](args), gradient(phi, args)
        velocity = tree.add(tree.scale(mu, velocity), slope)
        direction = tree.add(slope, tree.scale(mu, velocity)) if nesterov else velocity
        return _descend(phi, read["lr"](args), direction), velocity

    return Inner(
        init=start,
        objective=proximal,
        steps=steps,
        step=heavy if has_momentum else plain,
        begin=(lambda phi: (phi, tree.zeros_like(phi))) if has_momentum else (lambda phi: (phi,)),
        settings=read,
        hyper=settings.hyper,
        free=objective is None and not has_prox,
        functions=(loss, objective, init, *settings.functions),
        name=f"gradient_descent(steps={steps})",
    )


def _data_term(
    loss: Callable[..., Tensor] | None, objective: Callable[..., Tensor] | None
) -> Callable[..., Tensor]:
    if objective is not None:
        checked = scalar(objective, "objective")

        def general(phi: Tree, args: Args) -> Tensor:
            return checked(phi, args.theta, *args.data)

        return general
    assert loss is not None
    simple = scalar(loss, "loss")

    def of_data(phi: Tree, args: Args) -> Tensor:
        return simple(phi, *args.data)

    return of_data


def _descend(phi: Tree, lr: Any, direction: Tree) -> Tree:
    return tree.sub(phi, tree.scale(lr, direction))
