"""The context of an inner loop."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

from metafunc.estimator import Estimator
from metafunc.estimators import Explicit
from metafunc.imperative import Chain
from metafunc.interop.higher.module import hold
from metafunc.interop.higher.optimizer import followed, plain
from metafunc.interop.library import HIGHER


@contextmanager
def innerloop_ctx(
    model: torch.nn.Module,
    opt: torch.optim.Optimizer,
    device: torch.device | None = None,
    copy_initial_weights: bool = True,
    override: dict[str, list[Any]] | None = None,
    track_higher_grads: bool = True,
    *,
    estimator: Estimator | None = None,
) -> Generator[tuple[Any, Any], None, None]:
    """A stateless copy of a model and a differentiable optimizer for it, as ``higher.innerloop_ctx``.

    Maths: see :class:`~metafunc.imperative.chain.Chain`, with the updates of higher's differentiable optimizers as
    the steps. All of them can be used, those registered with ``register_optim`` too.

    Source: higher 0.2.1, whose arguments and results these are; ``estimator`` is new.

    Where gradients flow: to the model's parameters (with ``copy_initial_weights=False``; else to
    ``fmodel.parameters(time=0)``), to tensors in ``override``, and to whatever else a kept step depends on. Under
    ``Implicit`` the inner loss has to say how the solution depends on the meta-parameters: for iMAML, with a proximal
    term to ``fmodel.parameters(time=0)``.

    Differs in: under an estimator other than ``Explicit`` second derivatives are refused; ``fmodel.parameters(time=t)``
    has the first and the last parameters only; parameters passed by hand must be those of the last step.

    Cost: that of the estimator, see :class:`~metafunc.imperative.chain.Chain`.

    Args:
        model: The module to adapt.
        opt: Its optimizer.
        device: Where the fast parameters are to be. Default: where those of ``model`` are.
        copy_initial_weights: Start from copies of the parameters that no gradient passes to the model.
        override: Settings of the optimizer by name: lists of one value, or of one for each parameter group; tensors
            get gradients.
        track_higher_grads: ``False`` for evaluation: nothing is differentiated, whatever the estimator.
        estimator: How the loop is differentiated. Default: ``Explicit()``, which is higher itself.

    Yields:
        ``(fmodel, diffopt)``, to be used as with higher: ``diffopt.step(loss)``, ``fmodel(x)``.

    Raises:
        ImportError: If higher is not installed.
        TypeError: For an estimator that takes the steps itself, such as ``Reptile`` or ``FiniteDifference``.

    Example:
        >>> with higher.innerloop_ctx(net, opt, copy_initial_weights=False, estimator=mf.Binomial(2)) as (fnet, dopt):
        ...     for _ in range(5):
        ...         dopt.step(F.cross_entropy(fnet(x), y))
        ...     F.cross_entropy(fnet(x_query), y_query).backward()
    """
    higher = HIGHER.load()
    keep = {"copy_initial_weights": copy_initial_weights, "track_higher_grads": track_higher_grads}
    if estimator is None or estimator == Explicit():
        with higher.innerloop_ctx(model, opt, device, override=override, **keep) as (fmodel, diffopt):
            yield fmodel, plain(diffopt) if estimator and track_higher_grads else diffopt
        return
    fmodel = higher.monkeypatch(model, device, **keep)
    chain = Chain(fmodel.fast_params, estimator)
    diffopt = higher.get_diff_optim(
        opt,
        model.parameters(),
        fmodel=fmodel,
        device=device,
        override=override,
        track_higher_grads=track_higher_grads,
    )
    if track_higher_grads:
        hold(fmodel, chain)
        diffopt = followed(diffopt, chain)
    yield fmodel, diffopt
