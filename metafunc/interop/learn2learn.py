"""learn2learn's ``MAML`` and ``MetaSGD``, for every estimator."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn as nn
from torch import Tensor

from metafunc.estimator import Estimator
from metafunc.interop.errors import other_rates
from metafunc.interop.learner import Learner


class MAML(Learner):
    """A module whose clones take gradient steps, which an estimator differentiates.

    Maths: ``learner = maml.clone()`` starts at ``phi_0 = theta``, the module's parameters, and ``learner.adapt(loss)``
    sets ``phi_{k+1} = phi_k - lr grad loss``. A loss of the learner has the estimator's derivative with respect to
    ``theta``, so that ``backward()`` fills the gradients of the module's parameters.

    Source: ``learn2learn.algorithms.MAML``, whose signature and calls these are. Differs in: any estimator, not only
    backpropagation through all steps or none; ``adapt`` is for clones alone, so that the module is never changed; tied
    parameters stay tied; a frozen parameter, or one that the loss does not depend on, is an error that names it.

    A clone has a copy of the module, with buffers, mode and hooks of its own. A clone of a learner goes on from the
    learner's parameters, with a chain of steps of its own: ``Truncated(depth)`` counts steps since the last clone.

    Args:
        model: Any module.
        lr: The learning rate.
        first_order: Whether to differentiate by ``FirstOrder()``.
        allow_unused: Whether a loss need not depend on all parameters; the others stay. Default: as ``allow_nograd``.
        allow_nograd: Whether parameters may be frozen; they stay.
        estimator: How the steps are differentiated. Default: ``Explicit()``.

    Raises:
        TypeError: If the model or the estimator is of another kind; at ``adapt``, for what is no clone.
        ValueError: For ``first_order`` beside another estimator; at ``adapt``, for a frozen parameter, or a loss that
            does not depend on a parameter.

    Example:
        >>> learner = MAML(net, lr=0.01, estimator=mf.Truncated(2)).clone()
        >>> learner.adapt(loss_fn(learner(x), y))
        >>> loss_fn(learner(x_query), y_query).backward()
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        first_order: bool = False,
        allow_unused: bool | None = None,
        allow_nograd: bool = False,
        estimator: Estimator | None = None,
    ) -> None:
        unused = allow_nograd if allow_unused is None else allow_unused
        super().__init__(model, first_order, unused, allow_nograd, estimator)
        self.lr = lr

    def clone(
        self,
        first_order: bool | None = None,
        allow_unused: bool | None = None,
        allow_nograd: bool | None = None,
    ) -> MAML:
        """A learner that starts at the parameters as they are; an option that is left out is as it is here."""
        learner = MAML(
            self.module,
            self.lr,
            self.first_order if first_order is None else first_order,
            self.allow_unused if allow_unused is None else allow_unused,
            self.allow_nograd if allow_nograd is None else allow_nograd,
            self.estimator,
        )
        learner._begin([self.lr], self.training)
        return learner

    def adapt(
        self,
        loss: Tensor,
        first_order: bool | None = None,
        allow_unused: bool | None = None,
        allow_nograd: bool | None = None,
    ) -> None:
        """Take one gradient step on a loss of this learner; an option that is left out is as at its clone."""
        self._step(loss, [self.lr] * len(self._places), first_order, allow_unused, allow_nograd)


class MetaSGD(Learner):
    """:class:`MAML` with a learned rate for every parameter, in ``lrs``.

    Source: ``learn2learn.algorithms.MetaSGD``; Li et al. 2017. Differs in what :class:`MAML` differs in.

    Args:
        model: Any module.
        lr: The rates at first.
        first_order: As for :class:`MAML`.
        lrs: Rates shaped like the parameters, in their order, in place of those made from ``lr``.
        estimator: As for :class:`MAML`.

    Raises:
        TypeError, ValueError: As for :class:`MAML`; if there are not as many rates as parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1.0,
        first_order: bool = False,
        lrs: Iterable[Tensor] | None = None,
        estimator: Estimator | None = None,
    ) -> None:
        super().__init__(model, first_order, False, False, estimator)
        shapes = [p.shape for p in model.parameters()]
        given = [torch.full_like(p, lr) for p in model.parameters()] if lrs is None else list(lrs)
        if [rate.shape for rate in given] != shapes:
            raise other_rates(len(shapes), len(given))
        self.lrs = lrs if isinstance(lrs, nn.ParameterList) else nn.ParameterList(given)

    def clone(self) -> MetaSGD:
        """A learner that starts at the parameters as they are, with these rates."""
        learner = MetaSGD(self.module, 1.0, self.first_order, self.lrs, self.estimator)
        learner._begin(self.lrs, self.training)
        return learner

    def adapt(self, loss: Tensor, first_order: bool | None = None) -> None:
        """Take one gradient step on a loss of this learner."""
        self._step(loss, list(self.lrs), first_order, None, None)
