"""Gradient descent whose step size follows the smoothness of the MAML objective."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from metafunc.optim import errors
from metafunc.optim.descent import ScaledGD, check_option


class SmoothnessAdaptiveGD(ScaledGD):
    """Gradient descent with a step size of ``lr`` over an estimate of the MAML objective's smoothness at ``theta``.

    Maths: ``theta <- theta - lr g / (4 L + 2 rho alpha m)``, where ``m`` is the mean over a batch of tasks of
    ``||grad f_j(theta)||``. With the expectation in place of the mean, the denominator bounds the smoothness of
    ``F(theta) = E f_i(theta - alpha grad f_i(theta))``, which has no bound that holds everywhere (Lemma 4.8).

    Source: hf-maml (16)-(17). With one inner step and ``lr = 1/12`` MAML, ``1/25`` HF-MAML reach
    ``||grad F|| <= eps + O(sigma / sqrt(B))`` in ``O(1 / eps^2)`` steps with ``B`` tasks a step (Theorems 4.12, 4.17),
    and ``1/18`` takes FO-MAML to ``eps + O(sigma sqrt(alpha^2 L^2 + 1/B))`` (4.15).

    The paper draws the tasks whose gradients are measured anew, independent of those of the meta-gradient; (18) says
    how many suffice. :func:`~metafunc.optim.gradient_norms` measures them, and :meth:`observe` takes them before every
    step; ``rho = 0`` still asks for them.

    Args:
        params: As for any ``torch.optim`` optimizer.
        lr: The constant ``c`` in ``beta_k = c / L~(w_k)``.
        smoothness: ``L``, the Lipschitz constant of the gradients of the task losses.
        hessian_lipschitz: ``rho``, that of their Hessians; 0 for quadratic losses.
        inner_lr: ``alpha``, the step size of the inner gradient step.

    Raises:
        ValueError: If ``lr``, ``smoothness`` or ``inner_lr`` is not positive, or ``hessian_lipschitz`` is negative.

    Example:
        >>> constants = {"smoothness": 2.0, "hessian_lipschitz": 1.0, "inner_lr": 0.05}
        >>> optimizer = SmoothnessAdaptiveGD(net.parameters(), lr=1 / 12, **constants)
        >>> meta = mf.MetaOptimizer(net, F.mse_loss, optimizer, inner)
        >>> for tasks, others in zip(batches, more_batches):
        ...     optimizer.observe(gradient_norms(meta.model, meta.model.theta, others["support"]))
        ...     meta.step(tasks)
    """

    _mean: Tensor | None = (
        None  # on the class, since torch's optimizers copy and pickle no attributes of their own
    )

    def __init__(
        self, params: ParamsT, lr: float, *, smoothness: float, hessian_lipschitz: float, inner_lr: float
    ) -> None:
        constants = {
            "smoothness": smoothness,
            "hessian_lipschitz": hessian_lipschitz,
            "inner_lr": inner_lr,
        }
        super().__init__(params, {"lr": lr, **constants})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch."""
        options = {**self.defaults, **param_group}
        check_option("lr", options["lr"], "1/12")
        check_option("smoothness", options["smoothness"], 1.0)
        check_option("hessian_lipschitz", options["hessian_lipschitz"], 1.0, zero=True)
        check_option("inner_lr", options["inner_lr"], 0.01)
        super().add_param_group(param_group)

    def observe(self, norms: Tensor) -> None:
        """Take the norms of the task gradients at the present ``theta``, for the next step alone.

        Args:
            norms: ``||grad f_j(theta)||``, one a task.

        Shapes:
            norms: [tasks]

        Raises:
            ValueError: If they are not a vector with at least one entry.
        """
        if norms.ndim != 1 or not len(norms):
            raise errors.not_norms(norms)
        self._mean = norms.detach().mean()

    def step_size(self, group: dict[str, Any], norm: Tensor) -> Tensor:
        """``lr / L~(theta)``."""
        if self._mean is None:
            raise errors.nothing_observed()
        slope = 2 * group["hessian_lipschitz"] * group["inner_lr"]
        return group["lr"] / (4 * group["smoothness"] + slope * self._mean)

    def step(self, closure: Any = None) -> float | None:
        """One step, after which new norms are wanted."""
        loss = super().step(closure)
        self._mean = None
        return loss
