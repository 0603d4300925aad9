"""TorchOpt's imperative differentiable optimizers, for every estimator."""

from __future__ import annotations

from typing import Any

import torch.nn as nn

from metafunc.estimator import Estimator
from metafunc.interop.library import TORCHOPT
from metafunc.interop.torchopt_base import MetaOptimizer


class MetaSGD(MetaOptimizer):
    """``torchopt.sgd`` as a :class:`MetaOptimizer`; the options are those of ``torchopt.MetaSGD``."""

    def __init__(
        self,
        module: nn.Module,
        lr: Any,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        moment_requires_grad: bool = True,
        maximize: bool = False,
        *,
        estimator: Estimator | None = None,
    ) -> None:
        impl = _functional(
            "sgd",
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            dampening=dampening,
            nesterov=nesterov,
            moment_requires_grad=moment_requires_grad,
            maximize=maximize,
        )
        super().__init__(module, impl, estimator=estimator)


class MetaAdam(MetaOptimizer):
    """``torchopt.adam`` as a :class:`MetaOptimizer`; the options are those of ``torchopt.MetaAdam``."""

    def __init__(
        self,
        module: nn.Module,
        lr: Any = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        *,
        eps_root: float = 0.0,
        moment_requires_grad: bool = True,
        maximize: bool = False,
        use_accelerated_op: bool = False,
        estimator: Estimator | None = None,
    ) -> None:
        impl = _functional(
            "adam",
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            eps_root=eps_root,
            moment_requires_grad=moment_requires_grad,
            maximize=maximize,
            use_accelerated_op=use_accelerated_op,
        )
        super().__init__(module, impl, estimator=estimator)


class MetaAdamW(MetaOptimizer):
    """``torchopt.adamw`` as a :class:`MetaOptimizer`; the options are those of ``torchopt.MetaAdamW``."""

    def __init__(
        self,
        module: nn.Module,
        lr: Any = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.01,
        *,
        eps_root: float = 0.0,
        mask: Any = None,
        moment_requires_grad: bool = False,
        maximize: bool = False,
        use_accelerated_op: bool = False,
        estimator: Estimator | None = None,
    ) -> None:
        impl = _functional(
            "adamw",
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            eps_root=eps_root,
            mask=mask,
            moment_requires_grad=moment_requires_grad,
            maximize=maximize,
            use_accelerated_op=use_accelerated_op,
        )
        super().__init__(module, impl, estimator=estimator)


class MetaRMSProp(MetaOptimizer):
    """``torchopt.rmsprop`` as a :class:`MetaOptimizer`; the options are those of ``torchopt.MetaRMSProp``."""

    def __init__(
        self,
        module: nn.Module,
        lr: Any = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        initial_scale: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
        estimator: Estimator | None = None,
    ) -> None:
        impl = _functional(
            "rmsprop",
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            initial_scale=initial_scale,
            nesterov=nesterov,
            maximize=maximize,
        )
        super().__init__(module, impl, estimator=estimator)


class MetaAdaGrad(MetaOptimizer):
    """``torchopt.adagrad`` as a :class:`MetaOptimizer`; the options are those of ``torchopt.MetaAdaGrad``."""

    def __init__(
        self,
        module: nn.Module,
        lr: Any = 0.01,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        estimator: Estimator | None = None,
    ) -> None:
        impl = _functional(
            "adagrad",
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            maximize=maximize,
        )
        super().__init__(module, impl, estimator=estimator)


class MetaAdaDelta(MetaOptimizer):
    """``torchopt.adadelta`` as a :class:`MetaOptimizer`; the options are those of ``torchopt.MetaAdaDelta``."""

    def __init__(
        self,
        module: nn.Module,
        lr: Any = 1.0,
        rho: float = 0.9,
        eps: float = 1e-06,
        weight_decay: float = 0.0,
        *,
        moment_requires_grad: bool = True,
        estimator: Estimator | None = None,
    ) -> None:
        impl = _functional(
            "adadelta",
            lr=lr,
            rho=rho,
            eps=eps,
            weight_decay=weight_decay,
            moment_requires_grad=moment_requires_grad,
        )
        super().__init__(module, impl, estimator=estimator)


class MetaAdaMax(MetaOptimizer):
    """``torchopt.adamax`` as a :class:`MetaOptimizer`; the options are those of ``torchopt.MetaAdaMax``."""

    def __init__(
        self,
        module: nn.Module,
        lr: Any = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        *,
        moment_requires_grad: bool = True,
        estimator: Estimator | None = None,
    ) -> None:
        impl = _functional(
            "adamax",
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            moment_requires_grad=moment_requires_grad,
        )
        super().__init__(module, impl, estimator=estimator)


class MetaRAdam(MetaOptimizer):
    """``torchopt.radam`` as a :class:`MetaOptimizer`; the options are those of ``torchopt.MetaRAdam``."""

    def __init__(
        self,
        module: nn.Module,
        lr: Any = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        *,
        moment_requires_grad: bool = True,
        estimator: Estimator | None = None,
    ) -> None:
        impl = _functional(
            "radam",
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            moment_requires_grad=moment_requires_grad,
        )
        super().__init__(module, impl, estimator=estimator)


MetaRMSprop = MetaRMSProp
MetaAdagrad = MetaAdaGrad
MetaAdadelta = MetaAdaDelta
MetaAdamax = MetaAdaMax


def _functional(name: str, **options: Any) -> Any:
    return TORCHOPT.attribute(name)(**options)
