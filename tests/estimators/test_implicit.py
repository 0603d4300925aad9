"""Implicit against dense algebra: every solver, forward mode, second derivatives, residuals and black boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import metafunc as mf
from tests.dense import logistic
from tests.tasks import close, logistic_loss, options, tensors

EXACT = [mf.CG(max_steps=12, rtol=0.0), mf.Direct(), mf.Neumann(max_steps=50, scale=0.5)]


def adapt_for(task: Any, solver: Any, curvature: mf.Exact | mf.CentralDifference | None = None) -> Any:
    return mf.Implicit(solver, curvature or mf.Exact())(mf.gradient_descent(logistic_loss, **options(task)))


@pytest.mark.parametrize("solver", EXACT, ids=repr)
@pytest.mark.parametrize("steps", [3, 150])
def test_lemma_1_at_the_phi_that_was_reached(solver: Any, steps: int) -> None:
    task = logistic(prox=0.8, steps=steps)
    theta, support, query = tensors(task)
    adapt = adapt_for(task, solver)
    assert np.linalg.cond(task.hessian(task.phi)) > 1.5
    assert np.linalg.norm(task.implicit() - task.v) > 0.2 * np.linalg.norm(task.v)
    close(grad(lambda t: logistic_loss(adapt(t, support), query))(theta), task.implicit(), 1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_few_cg_steps_have_their_predicted_bias(steps: int) -> None:
    task = logistic(prox=0.2, steps=50)
    theta, support, query = tensors(task)
    adapt = adapt_for(task, mf.CG(max_steps=steps, rtol=0.0))
    found = grad(lambda t: logistic_loss(adapt(t, support), query))(theta)
    close(found, task.krylov(steps), 1e-9)
    assert np.linalg.norm(task.krylov(steps) - task.implicit()) > 1e-6


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_short_neumann_series_has_its_predicted_bias(steps: int) -> None:
    task = logistic(prox=0.2, steps=50)
    theta, support, query = tensors(task)
    adapt = adapt_for(task, mf.Neumann(max_steps=steps, scale=0.4))
    found = grad(lambda t: logistic_loss(adapt(t, support), query))(theta)
    close(found, task.neumann(steps, 0.4), 1e-10)


def test_it_is_the_limit_of_explicit() -> None:
    task = logistic(prox=0.8, steps=150)
    theta, support, query = tensors(task)
    explicit = mf.Explicit()(mf.gradient_descent(logistic_loss, **options(task)))
    gradients = [
        grad(lambda t, a=a: logistic_loss(a(t, support), query))(theta)
        for a in (explicit, adapt_for(task, mf.Direct()))
    ]
    close(gradients[1], gradients[0], 1e-10)


def test_gradients_to_prox_and_data_as_well() -> None:
    task = logistic(prox=0.8, steps=150)
    theta, support, query = tensors(task)

    def outer(kind: Any, prox: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        adapt = kind(mf.gradient_descent(logistic_loss, **(options(task) | {"prox": prox})))
        return logistic_loss(adapt(theta, (x, support[1])), query)

    at = torch.tensor(task.prox), support[0]
    explicit = grad(lambda p, x: outer(mf.Explicit(), p, x), argnums=(0, 1))(*at)
    implicit = grad(lambda p, x: outer(mf.Implicit(mf.Direct()), p, x), argnums=(0, 1))(*at)
    for a, b in zip(implicit, explicit, strict=True):
        close(a, b, 1e-9)


def test_central_difference_curvature() -> None:
    task = logistic(prox=0.8, steps=150)
    theta, support, query = tensors(task)
    adapt = adapt_for(task, mf.CG(max_steps=12, rtol=1e-10), mf.CentralDifference())
    close(grad(lambda t: logistic_loss(adapt(t, support), query))(theta), task.implicit(), 1e-7)


@pytest.mark.parametrize("solver", EXACT, ids=repr)
def test_forward_mode_is_the_same_jacobian(solver: Any) -> None:
    task = logistic(prox=0.8, steps=150)
    theta, support, _ = tensors(task)
    adapt = adapt_for(task, solver)
    matrix = task.prox * np.linalg.inv(task.hessian(task.phi))
    close(jacfwd(adapt)(theta, support), matrix, 1e-9)
    close(jacrev(adapt)(theta, support), matrix, 1e-9)
    close(jvp(lambda t: adapt(t, support), (theta,), (theta,))[1], matrix @ task.theta, 1e-9)


@pytest.mark.parametrize("solver", EXACT, ids=repr)
def test_second_derivatives_in_all_four_nestings(solver: Any) -> None:
    """Against the difference quotient of the dense gradient: the Hessian through the solve is exact."""
    task = logistic(prox=0.8, steps=150, d=4)
    theta, support, query = tensors(task)

    def dense_gradient(theta: Any) -> Any:
        moved = logistic(prox=0.8, steps=150, d=4)
        moved.theta = theta
        return moved.implicit()

    h = 1e-5
    expected = np.stack(
        [
            (dense_gradient(task.theta + h * e) - dense_gradient(task.theta - h * e)) / (2 * h)
            for e in np.eye(4)
        ]
    )
    adapt = adapt_for(task, solver)

    def outer(t: torch.Tensor) -> torch.Tensor:
        return logistic_loss(adapt(t, support), query)

    for nested in (
        jacrev(jacrev(outer)),
        jacfwd(jacrev(outer)),
        jacrev(jacfwd(outer)),
        jacfwd(jacfwd(outer)),
        hessian(outer),
    ):
        close(nested(theta), expected, 1e-8)
    leaf = theta.clone().requires_grad_()
    (first,) = torch.autograd.grad(outer(leaf), leaf, create_graph=True)
    close(torch.stack([torch.autograd.grad(g, leaf, retain_graph=True)[0] for g in first]), expected, 1e-8)


def test_memory_of_the_path_is_not_needed() -> None:
    """The pull-back looks at phi alone: any solver that finds it gives the same gradient."""
    task = logistic(prox=0.8, steps=150)
    theta, support, query = tensors(task)

    @mf.Implicit(mf.Direct())
    @mf.minimizes(lambda phi, theta, batch: logistic_loss(phi, batch) + 0.4 * ((phi - theta) ** 2).sum())
    def adapt(theta: torch.Tensor, batch: Any) -> torch.Tensor:
        phi = theta.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([phi], max_iter=200, tolerance_grad=1e-13, tolerance_change=0)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = logistic_loss(phi, batch) + 0.4 * ((phi - theta) ** 2).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        assert phi.sum().item() != 0  # a black box may look at values
        return phi

    close(grad(lambda t: logistic_loss(adapt(t, support), query))(theta), task.implicit(), 1e-8)
    tasks = [logistic(seed, prox=0.8, steps=150) for seed in range(3)]
    batch = [torch.stack(parts) for parts in zip(*(tensors(t)[1] for t in tasks), strict=True)]
    queries = [torch.stack(parts) for parts in zip(*(tensors(t)[2] for t in tasks), strict=True)]
    for t in tasks:
        t.theta = task.theta
    expected = np.stack([t.implicit() for t in tasks])
    found = vmap(grad(lambda t, s, q: logistic_loss(adapt(t, s), q)), in_dims=(None, 0, 0))(
        theta, tuple(batch), tuple(queries)
    )
    close(found, expected, 1e-8)


def test_a_nonsymmetric_root() -> None:
    """phi solves (M + phi^3) - theta = 0 with M nonsymmetric; the Jacobian is a dense inverse."""
    d = 4
    matrix = torch.randn(d, d) + 3 * torch.eye(d)

    def residual(phi: torch.Tensor, theta: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return matrix @ phi + phi**3 + shift - theta

    def newton(theta: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        phi = torch.zeros(d)
        while residual(phi, theta, shift).norm().item() > 1e-14:
            phi = phi - torch.linalg.solve(matrix + torch.diag(3 * phi**2), residual(phi, theta, shift))
        return phi

    theta, shift = torch.randn(d), torch.randn(d)
    adapt = mf.Implicit(mf.Direct())(mf.solves(residual)(newton))
    phi = adapt(theta, shift)
    inverse = torch.linalg.inv(matrix + torch.diag(3 * phi**2))
    assert (inverse - inverse.T).norm() > 0.1 * inverse.norm()
    close(jacrev(adapt)(theta, shift), inverse, 1e-12)
    close(jacfwd(adapt)(theta, shift), inverse, 1e-12)
    close(jacrev(adapt, argnums=1)(theta, shift), -inverse, 1e-12)
    cubes = jacrev(jacrev(lambda t: (adapt(t, shift) ** 2).sum()))(theta)
    close(jacfwd(jacfwd(lambda t: (adapt(t, shift) ** 2).sum()))(theta), cubes, 1e-10)
    close(cubes, cubes.T, 1e-10)
    neumann = mf.Implicit(mf.Neumann(400, scale=0.2))(mf.solves(residual)(newton))
    close(jacrev(neumann)(theta, shift), inverse, 1e-8)


def test_the_limit_of_an_iteration() -> None:
    """A declared step under Implicit means its fixed point; Neumann sums the steps backwards."""
    d = 3
    matrix = torch.randn(d, d)
    matrix = 0.5 * matrix / torch.linalg.matrix_norm(matrix, 2)

    @mf.iterates(steps=80)
    def inner(phi: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        return matrix @ phi + theta

    expected = torch.linalg.inv(torch.eye(d) - matrix)
    theta = torch.randn(d)
    for estimator in (
        mf.Implicit(mf.Direct()),
        mf.Implicit(mf.Neumann(80)),
        mf.Explicit(),
        mf.Explicit(checkpoint=9),
    ):
        close(jacrev(estimator(inner))(theta), expected, 1e-12)
    few = jacrev(mf.Implicit(mf.Neumann(3))(inner))(theta)
    close(few, torch.eye(d) + matrix + matrix @ matrix, 1e-12)


def test_torchopt_solvers_are_accepted() -> None:
    torchopt = pytest.importorskip("torchopt")
    task = logistic(prox=0.8, steps=150)
    theta, support, query = tensors(task)
    adapt = adapt_for(task, torchopt.linear_solve.solve_normal_cg(maxiter=50, rtol=1e-14))
    result = mf.meta_grad(logistic_loss, adapt)(theta, support, query)
    close(result.grad, task.implicit(), 1e-8)
    assert result.stats["linear_residual"] < 1e-7


def test_stats_tell_of_the_solve() -> None:
    task = logistic(prox=0.8, steps=150)
    theta, support, query = tensors(task)
    good = mf.meta_grad(logistic_loss, adapt_for(task, mf.CG(max_steps=12, rtol=1e-10)))(
        theta, support, query
    )
    assert good.stats["stationarity"] < 1e-12
    assert good.stats["linear_residual"] < 1e-10
    assert 1 <= good.stats["linear_steps"] <= 6 + 1
    assert mf.check(good) is good
    rough = mf.meta_grad(logistic_loss, adapt_for(logistic(prox=0.8, steps=1), mf.CG(max_steps=1)))
    poor = rough(theta, support, query)
    assert poor.stats["stationarity"] > 1e-3
    assert poor.stats["linear_residual"] > 1e-2
