"""Gauss-Newton against the dense matrix, and that it is positive where the Hessian is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp

import metafunc as mf
from tests.dense import logistic
from tests.tasks import close, logistic_loss, options, tensors

PROX, LR, STEPS = 0.7, 0.2, 3


def model(phi: Tensor, batch: Any) -> Tensor:
    return torch.tanh(batch[0] @ phi) * 2


def criterion(outputs: Tensor, batch: Any) -> Tensor:
    return F.mse_loss(outputs, batch[1])


loss = mf.Composed(model, criterion)


def problem() -> tuple[Tensor, Any]:
    return torch.randn(4), (torch.randn(7, 4), torch.randn(7))


def dense(phi: Tensor, batch: Any) -> Tensor:
    """``J^T (2/n) J + prox``, with ``J = 2 (1 - tanh^2) x``."""
    x = batch[0]
    j = 2 * (1 - torch.tanh(x @ phi) ** 2)[:, None] * x
    return j.T @ j * (2 / len(x)) + PROX * torch.eye(len(phi))


def test_the_loss_is_the_composition() -> None:
    theta, batch = problem()
    close(loss(theta, batch), F.mse_loss(2 * torch.tanh(batch[0] @ theta), batch[1]), 1e-15)


def test_implicit_solves_with_the_dense_matrix() -> None:
    theta, batch = problem()
    inner = mf.gradient_descent(loss, lr=LR, prox=PROX, steps=STEPS)
    phi = inner(theta, batch)
    matrix, v = dense(phi, batch), grad(loss)(phi, batch)
    true = hessian(loss)(phi, batch) + PROX * torch.eye(4)
    assert (matrix - true).norm() > 0.05 * true.norm()  # else the test could not tell them apart
    for solver in (mf.Direct(), mf.CG(max_steps=8, rtol=0)):
        adapt = mf.Implicit(solver, mf.GaussNewton())(inner)
        found = grad(lambda t, a=adapt: loss(a(t, batch), batch))(theta)
        close(found, PROX * torch.linalg.solve(matrix, v), 1e-10)
        pushed = jvp(lambda t, a=adapt: a(t, batch), (theta,), (theta,))[1]
        close(pushed, PROX * torch.linalg.solve(matrix, theta), 1e-10)


def test_explicit_multiplies_by_the_dense_matrices() -> None:
    theta, batch = problem()
    inner = mf.gradient_descent(loss, lr=LR, prox=PROX, steps=STEPS)
    jacobian, phi = torch.eye(4), theta
    for _ in range(STEPS):
        jacobian = jacobian - LR * (dense(phi, batch) @ jacobian - PROX * torch.eye(4))
        phi = phi - LR * (grad(loss)(phi, batch) + PROX * (phi - theta))
    adapt = mf.Explicit(curvature=mf.GaussNewton())(inner)
    close(grad(lambda t: loss(adapt(t, batch), batch))(theta), jacobian.T @ grad(loss)(phi, batch), 1e-12)
    close(jacfwd(adapt)(theta, batch), jacobian, 1e-12)


def test_it_is_the_hessian_of_a_linear_model_and_data_get_their_exact_gradient() -> None:
    task = logistic(prox=0.8)
    theta, support, query = tensors(task)
    parts = mf.Composed(lambda phi, b: b[0] @ phi, lambda out, b: F.softplus(-b[1] * out).mean())
    adapt = mf.Explicit(curvature=mf.GaussNewton())(mf.gradient_descent(parts, **options(task)))
    plain = mf.Explicit()(mf.gradient_descent(logistic_loss, **options(task)))
    close(grad(lambda t: logistic_loss(adapt(t, support), query))(theta), task.explicit()[0], 1e-10)
    to_data = [
        grad(lambda x, a=a: logistic_loss(a(theta, (x, support[1])), query))(support[0])
        for a in (adapt, plain)
    ]
    close(to_data[0], to_data[1], 1e-10)


def test_it_has_no_negative_curvature_where_the_hessian_has() -> None:
    theta, batch = problem()
    steep = mf.Composed(lambda p, b: model(3 * p, b), lambda o, b: 20 * criterion(o, b))
    inner = mf.gradient_descent(steep, lr=1e-6, prox=1e-3, steps=1)
    assert torch.linalg.eigvalsh(hessian(steep)(theta, batch))[0] < -0.1
    flags = {}
    for curvature in (mf.Exact(), mf.GaussNewton()):
        adapt = mf.Implicit(mf.CG(max_steps=8), curvature)(inner)
        flags[curvature] = mf.meta_grad(steep, adapt)(theta, batch, batch).stats["negative_curvature"]
    assert flags[mf.Exact()]
    assert not flags[mf.GaussNewton()]


def test_with_weight_decay_and_theta_in_the_objective() -> None:
    """An ``objective=`` hands ``theta`` to model and criterion as well; weight decay belongs to the rest."""
    theta, batch = problem()
    composed = mf.Composed(lambda p, t, b: model(p + t, b), lambda out, t, b: criterion(out, b))
    inner = mf.gradient_descent(objective=composed, lr=LR, weight_decay=PROX, steps=STEPS)
    phi = inner(theta, batch)
    adapt = mf.Implicit(mf.Direct(), mf.GaussNewton())(inner)
    mixed = jacrev(lambda t: grad(lambda p: criterion(model(p + t, batch), batch))(phi))(theta)
    expected = -mixed.T @ torch.linalg.solve(dense(phi + theta, batch), grad(loss)(phi, batch))
    close(grad(lambda t: loss(adapt(t, batch), batch))(theta), expected, 1e-10)


def test_what_it_refuses() -> None:
    theta, batch = problem()
    inner = mf.gradient_descent(loss.__call__, lr=LR, steps=STEPS)
    with pytest.raises(
        TypeError, match=r"GaussNewton: expected a loss declared as mf.Composed\(model, criterion\)"
    ):
        mf.Explicit(curvature=mf.GaussNewton())(inner)
    adapt = mf.Explicit(curvature=mf.GaussNewton())(mf.gradient_descent(loss, lr=LR, steps=STEPS))
    with pytest.raises(mf.SecondDerivativeError, match="GaussNewton"):
        hessian(lambda t: loss(adapt(t, batch), batch))(theta)
    with pytest.raises(TypeError, match=r"model: expected a function model\(phi, \*data\) -> outputs"):
        mf.Composed(None, criterion)  # type: ignore[arg-type]
