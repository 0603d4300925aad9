"""A separate batch for the Hessian: the solver and mixed derivatives see one, the products the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

import metafunc as mf
from tests.dense import Logistic, logistic
from tests.tasks import close, logistic_loss, options, tensors

ESTIMATORS = {
    "explicit": (mf.Explicit(), Logistic.explicit),
    "checkpointed": (mf.Explicit(checkpoint=2), Logistic.explicit),
    "truncated": (mf.Truncated(2), lambda task: task.truncated(2)),
    "binomial": (mf.Binomial(2), lambda task: task.binomial(2)),
    "implicit": (mf.Implicit(mf.Direct()), lambda task: (task.implicit(),)),
}
CURVATURES = {
    "exact": mf.Exact(),
    "forward": mf.Exact("forward"),
    "difference": mf.CentralDifference(),
    "gauss_newton": mf.GaussNewton(),
}

composed = mf.Composed(
    lambda phi, b: b[0] @ phi, lambda out, b: torch.nn.functional.softplus(-b[1] * out).mean()
)


def problem() -> tuple[Logistic, Any]:
    """A task whose dense Hessians are those of another one's data."""
    task, other = logistic(0, prox=0.8, steps=4), logistic(7)
    assert np.linalg.norm(task.loss_hessian(task.theta) - other.loss_hessian(task.theta)) > 0.3
    task.loss_hessian = other.loss_hessian  # type: ignore[method-assign]
    return task, tensors(other)[1]


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_against_dense_algebra(name: str, curvature: str) -> None:
    task, hessian_support = problem()
    theta, support, query = tensors(task)
    estimator, oracle = ESTIMATORS[name]
    kind = type(estimator)
    fields = {f: getattr(estimator, f) for f in estimator.__slots__ if f != "curvature"}  # type: ignore[attr-defined]
    adapt = kind(**fields, curvature=CURVATURES[curvature])(
        mf.with_hessian_batch(mf.gradient_descent(composed, **options(task)))
    )
    assert torch.allclose(adapt(theta, support, hessian_support), torch.from_numpy(task.phi))
    found = grad(lambda t: logistic_loss(adapt(t, support, hessian_support), query))(theta)
    close(found, oracle(task)[0], 1e-7 if curvature == "difference" else 1e-10)


def test_gradients_to_lr_and_prox_and_forward_mode() -> None:
    task, hessian_support = problem()
    theta, support, query = tensors(task)

    def outer(t: Tensor, lr: Tensor, prox: Tensor) -> Tensor:
        inner = mf.gradient_descent(logistic_loss, **(options(task) | {"lr": lr, "prox": prox}))
        return logistic_loss(mf.Explicit()(mf.with_hessian_batch(inner))(t, support, hessian_support), query)

    at = theta, torch.tensor(task.lr), torch.tensor(task.prox)
    found = grad(outer, argnums=(0, 1, 2))(*at)
    for a, b in zip(found, task.explicit(), strict=True):
        close(a, b, 1e-10)
    _, dot = jvp(outer, at, at)
    expected = sum(float(np.dot(np.ravel(a), np.ravel(b))) for a, b in zip(at, task.explicit(), strict=True))
    close(dot, expected, 1e-10)


def test_data_get_their_gradients_from_the_first_derivatives() -> None:
    """With the same batch twice only the support's gradient through the mixed derivatives is left, as documented."""
    task = logistic(0, prox=0.8, steps=4)
    theta, support, query = tensors(task)
    inner = mf.gradient_descent(logistic_loss, **options(task))
    plain, split = mf.Explicit()(inner), mf.Explicit()(mf.with_hessian_batch(inner))
    expected = grad(lambda x: logistic_loss(plain(theta, (x, support[1])), query))(support[0])
    found, hessian_part = grad(
        lambda x, h: logistic_loss(split(theta, (x, support[1]), (h, support[1])), query), argnums=(0, 1)
    )(support[0], support[0])
    close(found, expected, 1e-10)
    assert torch.equal(hessian_part, torch.zeros_like(hessian_part))  # phi does not depend on it


def test_under_vmap_and_in_meta_grad() -> None:
    task, hessian_support = problem()
    theta, support, query = tensors(task)
    adapt = mf.Explicit()(mf.with_hessian_batch(mf.gradient_descent(logistic_loss, **options(task))))
    two = [tuple(torch.stack([x, x]) for x in part) for part in (support, hessian_support, query)]
    result = mf.meta_grad(logistic_loss, adapt, tasks=mf.Vmap())(theta, *two)
    close(result.grad, task.explicit()[0], 1e-10)
    mapped = vmap(grad(lambda t, s, h, q: logistic_loss(adapt(t, s, h), q)), in_dims=(None, 0, 0, 0))(
        theta, *two
    )
    close(mapped[1], task.explicit()[0], 1e-10)


def test_what_it_refuses() -> None:
    task, hessian_support = problem()
    theta, support, query = tensors(task)
    adapt = mf.Explicit()(mf.with_hessian_batch(mf.gradient_descent(logistic_loss, **options(task))))
    with pytest.raises(
        ValueError, match="as many data arguments for the Hessian as for the loss, got 1 data"
    ):
        adapt(theta, support)
    with pytest.raises(mf.SecondDerivativeError):
        torch.func.hessian(lambda t: logistic_loss(adapt(t, support, hessian_support), query))(theta)
    with pytest.raises(TypeError, match="with_hessian_batch: expected an inner problem with an objective"):
        mf.with_hessian_batch(mf.iterates(steps=2)(lambda phi, theta: phi))
    with pytest.raises(TypeError, match="with_hessian_batch: expected an inner problem"):
        mf.with_hessian_batch(logistic_loss)  # type: ignore[arg-type]
