"""custom_root against TorchOpt's own in eager mode, against dense algebra, and where TorchOpt's does not go."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import metafunc as mf
from metafunc.interop.torchopt import custom_root
from metafunc.linear import GMRES, MINRES, NormalCG
from tests.dense import logistic
from tests.tasks import close, logistic_loss, tensors

torchopt = pytest.importorskip("torchopt")
theirs = torchopt.diff.implicit.custom_root
N, D = 12, 4
SHORT = NormalCG(max_steps=2 * D, rtol=1e-12)


def tight(kind: str) -> Any:
    """TorchOpt's linear solvers, with tolerances that show the method and not the tolerance."""
    solvers = torchopt.linear_solve
    if kind == "inv":
        return solvers.solve_inv()
    return getattr(solvers, f"solve_{kind}")(rtol=1e-13, maxiter=500)


# Ridge regression with a weight for every feature: phi = A^-1 X'y / n with A = X'X/n + diag(reg)


def ridge_objective(phi: Tensor, reg: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return ((x @ phi - y) ** 2).mean() / 2 + (reg * phi**2).sum() / 2


def ridge_solution(phi: Any, reg: Tensor, x: Tensor, y: Tensor) -> Tensor:
    assert torch.linalg.norm(x).item() > 0  # a black box may look at values
    return torch.linalg.solve(x.T @ x / len(y) + torch.diag(reg), x.T @ y / len(y))


def ridge(decorator: Callable[..., Any] = custom_root, argnums: Any = 1, solve: Any = SHORT) -> Any:
    return decorator(grad(ridge_objective), argnums, solve=solve)(ridge_solution)


def ridge_task(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(N, D, generator=generator), torch.randn(N, generator=generator)
    return 0.1 + torch.rand(D, generator=generator), x, y


TARGET = torch.linspace(-1.0, 2.0, D, dtype=torch.float64)


def outer(phi: Tensor) -> Tensor:
    return ((phi - TARGET) ** 2).sum() / 2 + (phi**3).sum()


class DenseRidge:
    """The same by numpy alone."""

    def __init__(self, reg: Tensor, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x.numpy(), y.numpy()
        self.inverse = np.linalg.inv(self.x.T @ self.x / N + np.diag(reg.numpy()))
        self.phi = self.inverse @ self.x.T @ self.y / N
        self.v = self.phi - TARGET.numpy() + 3 * self.phi**2
        self.w = self.inverse @ self.v
        assert np.linalg.cond(self.inverse) > 2
        assert np.linalg.norm(self.phi) > 0.1

    def jacobian(self) -> Any:
        return -self.inverse * self.phi

    def gradients(self) -> tuple[Any, Any, Any]:
        """In reg, x and y."""
        r = self.x @ self.phi - self.y
        in_x = -(np.outer(r, self.w) + np.outer(self.x @ self.w, self.phi)) / N
        found = -self.w * self.phi, in_x, self.x @ self.w / N
        assert all(np.linalg.norm(g) > 1e-2 for g in found)
        return found

    def hessian(self) -> Any:
        """In reg: ``d2 phi/dl_i dl_j = A^-1 (e_i A^-1_ij phi_j + e_j A^-1_ji phi_i)``."""
        J, M = self.jacobian(), self.inverse * np.outer(self.w, self.phi)
        found = J.T @ np.diag(1 + 6 * self.phi) @ J + M + M.T
        assert np.linalg.norm(found) > 1e-1
        return found


def eager(fn: Callable[..., Tensor], *args: Any) -> list[Tensor]:
    """The gradients in all tensors by ``.backward()``."""
    leaves = [x.clone().requires_grad_() for x in args]
    fn(*leaves).backward()
    return [x.grad if x.grad is not None else torch.zeros_like(x) for x in leaves]


def same_as_theirs(make: Callable[..., Any], *args: Tensor, rtol: float = 1e-9) -> list[Tensor]:
    """Values and eager gradients of a scalar function built on either decorator."""
    ours, other = make(custom_root), make(theirs)
    close(ours(*args), other(*args).detach(), 1e-14)
    found, expected = eager(ours, *args), eager(other, *args)
    for a, b in zip(found, expected, strict=True):
        assert b.norm() > 1e-3
        close(a, b, rtol)
    return found


# 1. Agreement with TorchOpt in eager mode


@pytest.mark.parametrize("kind", ["cg", "normal_cg", "inv"])
def test_ridge_as_theirs(kind: str) -> None:
    def make(decorator: Any) -> Any:
        solve = ridge(decorator, argnums=(1, 2, 3), solve=tight(kind))
        return lambda *args: outer(solve(torch.zeros(D), *args))

    same_as_theirs(make, *ridge_task())


def test_logistic_regression_as_theirs() -> None:
    task = logistic(prox=0.8, steps=300)
    theta, support, query = tensors(task)

    def objective(phi: Tensor, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return logistic_loss(phi, (x, y)) + task.prox / 2 * ((phi - theta) ** 2).sum()

    def make(decorator: Any) -> Any:
        @decorator(grad(objective), argnums=1, solve=tight("normal_cg"))
        def solve(phi: Tensor, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
            for _ in range(300):
                phi = phi - 0.5 * grad(objective)(phi, theta, x, y)
            return phi

        return lambda theta: logistic_loss(solve(torch.zeros_like(theta), theta, *support), query)

    (found,) = same_as_theirs(make, theta)
    close(found, task.implicit(), 1e-9)


def net_loss(params: tuple[Tensor, ...], x: Tensor, y: Tensor) -> Tensor:
    w1, b1, w2, b2 = params
    return ((torch.tanh(x @ w1 + b1) @ w2 + b2 - y) ** 2).mean()


def imaml(decorator: Any, prox: float = 2.0, **options: Any) -> Any:
    """The inner loop of iMAML as TorchOpt's tutorial writes it: parameters that already require a gradient."""

    def objective(params: Any, meta: Any, data: Any) -> Tensor:
        near = sum(((p - m) ** 2).sum() for p, m in zip(params, meta, strict=True))
        return net_loss(params, *data) + prox / 2 * near

    @decorator(grad(objective), argnums=1, **options)
    def solve(params: Any, meta: Any, data: Any) -> Any:
        with torch.enable_grad():
            for _ in range(60):
                slope = torch.autograd.grad(objective(params, meta, data), params)
                params = tuple(p - 0.2 * g for p, g in zip(params, slope, strict=True))
        return params

    return solve


def net_task() -> tuple[list[Tensor], Any, Any]:
    params = [torch.randn(2, 3), torch.randn(3), torch.randn(3, 1), torch.randn(1)]
    return params, (torch.randn(8, 2), torch.randn(8, 1)), (torch.randn(8, 2), torch.randn(8, 1))


def test_a_tuple_of_net_parameters_as_theirs() -> None:
    params, support, query = net_task()

    def make(decorator: Any) -> Any:
        solve = imaml(decorator, solve=tight("normal_cg"))
        start = [p.clone().requires_grad_() for p in params]
        return lambda *meta: net_loss(solve(tuple(start), meta, support), *query)

    same_as_theirs(make, *params)


def nonsymmetric(decorator: Any = custom_root, **options: Any) -> tuple[Any, Tensor]:
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(D, D, generator=generator) + 3 * torch.eye(D)

    def residual(phi: Tensor, theta: Tensor, shift: Tensor) -> Tensor:
        return matrix @ phi + phi**3 + shift - torch.sin(theta)

    @decorator(residual, argnums=(1, 2), **options)
    def newton(phi: Tensor, theta: Tensor, shift: Tensor) -> Tensor:
        while residual(phi, theta, shift).norm().item() > 1e-14:
            phi = phi - torch.linalg.solve(matrix + torch.diag(3 * phi**2), residual(phi, theta, shift))
        return phi

    return newton, matrix


def test_a_nonsymmetric_root_as_theirs() -> None:
    def make(decorator: Any) -> Any:
        solve, _ = nonsymmetric(decorator, solve=tight("normal_cg"))
        return lambda *args: outer(solve(torch.zeros(D), *args))

    same_as_theirs(make, torch.randn(D), torch.randn(D))


def test_aux_as_theirs() -> None:
    def make(decorator: Any) -> Any:
        @decorator(grad(ridge_objective), argnums=(1, 2), has_aux=True, solve=tight("cg"))
        def solve(phi: Tensor, *args: Tensor) -> Any:
            return ridge_solution(phi, *args), {"steps": 7, "method": "dense", "norm": args[0].norm()}

        def value(reg: Tensor, x: Tensor, y: Tensor) -> Tensor:
            phi, aux = solve(torch.zeros(D), reg, x, y)
            assert aux["steps"] == 7 and aux["method"] == "dense" and aux["norm"].item() == reg.norm().item()
            return outer(phi)

        return lambda reg, x: value(reg, x, ridge_task()[2])

    same_as_theirs(make, *ridge_task()[:2])


def test_keywords_as_theirs() -> None:
    """By name, in any order, with a default filled in."""

    def make(decorator: Any) -> Any:
        def objective(phi: Tensor, reg: Tensor, x: Tensor, y: Tensor, power: int = 1) -> Tensor:
            return ridge_objective(phi, reg**power, x, y)

        @decorator(grad(objective), argnums=(1, 2, 3), solve=tight("cg"))
        def solve(phi: Tensor, reg: Tensor, x: Tensor, y: Tensor, power: int = 2) -> Tensor:
            return ridge_solution(phi, reg**power, x, y)

        return lambda reg, x, y: outer(solve(torch.zeros(D), y=y, reg=reg, x=x))

    reg, x, y = ridge_task()
    found = same_as_theirs(make, reg, x, y)
    close(found[0], 2 * reg.numpy() * DenseRidge(reg**2, x, y).gradients()[0], 1e-9)


@pytest.mark.parametrize("argnums", [1, (1,), (1, 2), (2, 1), (1, 2, 3), 2, (3,), (1, 3), (3, 2)], ids=str)
def test_gradients_to_argnums_alone_as_theirs(argnums: Any) -> None:
    chosen = argnums if isinstance(argnums, tuple) else (argnums,)
    expected = DenseRidge(*ridge_task()).gradients()
    for decorator in (custom_root, theirs):
        args = [x.requires_grad_() for x in (torch.zeros(D), *ridge_task())]
        value = outer(ridge(decorator, argnums=argnums, solve=tight("cg"))(*args))
        if decorator is theirs and set(chosen) != set(range(1, 1 + len(chosen))):
            with pytest.raises(IndexError):  # TorchOpt 0.7.3 can only leave out the last arguments
                value.backward()
            continue
        value.backward()
        for i, x in enumerate(args):
            if i in chosen:
                close(x.grad, expected[i - 1], 1e-9)
            else:
                assert x.grad is None


# 2. Against dense algebra


SOLVERS = [
    None,
    SHORT,
    mf.CG(max_steps=12, rtol=0.0),
    MINRES(max_steps=12, rtol=0.0),
    GMRES(max_steps=12, rtol=0.0),
    mf.Direct(),
    mf.Neumann(max_steps=600, scale=0.3),
]


@pytest.mark.parametrize("solve", [*SOLVERS, "cg", "normal_cg", "inv"], ids=str)
def test_ridge_by_every_solver(solve: Any) -> None:
    solve = tight(solve) if isinstance(solve, str) else solve
    task = ridge_task()
    found = grad(
        lambda args: outer(ridge(argnums=(1, 2, 3), solve=solve)(None, *args)),
    )(task)
    for a, b in zip(found, DenseRidge(*task).gradients(), strict=True):
        close(a, b, 1e-9)


def test_solve_is_used() -> None:
    """Few steps of CG give the point of the Krylov space, not the solution."""
    reg, x, y = ridge_task()
    dense = DenseRidge(reg, x, y)
    A, v = np.linalg.inv(dense.inverse), dense.v
    step = v @ v / (v @ A @ v) * v
    for solve in (mf.CG(max_steps=1, rtol=0.0), torchopt.linear_solve.solve_cg(maxiter=1)):
        found = grad(lambda reg, s=solve: outer(ridge(solve=s)(None, reg, x, y)))(reg)
        close(found, -step * dense.phi, 1e-12)
    assert np.linalg.norm(step - dense.w) > 0.1 * np.linalg.norm(dense.w)


def test_imaml_on_a_net_against_a_dense_solve() -> None:
    params, support, query = net_task()
    solve = imaml(custom_root)

    def meta_loss(meta: tuple[Tensor, ...]) -> Tensor:
        return net_loss(solve(meta, meta, support), *query)

    sizes = [p.numel() for p in params]

    def flat_loss(flat: Tensor, data: Any) -> Tensor:
        parts = [v.reshape(p.shape) for v, p in zip(flat.split(sizes), params, strict=True)]
        return net_loss(tuple(parts), *data)

    found = grad(meta_loss)(tuple(params))
    start = tuple(p.clone().requires_grad_() for p in params)
    phi = torch.cat([p.reshape(-1) for p in solve(start, start, support)]).detach()
    H = hessian(flat_loss)(phi, support).numpy() + 2.0 * np.eye(len(phi))
    v = grad(flat_loss)(phi, query).numpy()
    expected = 2.0 * np.linalg.solve(H, v)
    assert np.linalg.norm(expected - v) > 0.05 * np.linalg.norm(v)
    close(torch.cat([g.reshape(-1) for g in found]), expected, 1e-7)
    for a, b in zip(eager(lambda *meta: meta_loss(meta), *params), found, strict=True):
        close(a, b, 1e-12)


def test_a_nonsymmetric_root_by_the_default_solver() -> None:
    solve, matrix = nonsymmetric()
    theta, shift = torch.randn(D), torch.randn(D)
    phi = solve(torch.zeros(D), theta, shift)
    inverse = np.linalg.inv(matrix.numpy() + np.diag(3 * phi.numpy() ** 2))
    assert np.linalg.norm(inverse - inverse.T) > 0.1 * np.linalg.norm(inverse)
    for jacobian in (jacrev, jacfwd):
        close(
            jacobian(lambda t: solve(torch.zeros(D), t, shift))(theta), inverse * np.cos(theta.numpy()), 1e-9
        )
        close(jacobian(lambda s: solve(torch.zeros(D), theta, s))(shift), -inverse, 1e-9)


# 3. What TorchOpt's cannot


def test_torchopt_raises_under_torch_func() -> None:
    """So that what the documentation says of it stays true."""
    reg, x, y = ridge_task()
    solve = ridge(theirs, solve=None)
    assert solve(torch.zeros(D), reg, x, y).shape == (D,)
    with pytest.raises(RuntimeError):
        grad(lambda reg: outer(solve(torch.zeros(D), reg, x, y)))(reg)
    with pytest.raises(RuntimeError):
        vmap(lambda reg: solve(torch.zeros(D), reg, x, y))(torch.stack([reg, reg]))
    with pytest.raises(RuntimeError):
        jvp(lambda reg: solve(torch.zeros(D), reg, x, y), (reg,), (reg,))


def test_jacobians_in_either_mode() -> None:
    reg, x, y = ridge_task()
    solve = ridge()
    expected = DenseRidge(reg, x, y).jacobian()
    close(jacrev(solve, argnums=1)(None, reg, x, y), expected, 1e-10)
    close(jacfwd(solve, argnums=1)(None, reg, x, y), expected, 1e-10)
    close(jvp(lambda reg: solve(None, reg, x, y), (reg,), (TARGET,))[1], expected @ TARGET.numpy(), 1e-10)


def test_second_derivatives() -> None:
    reg, x, y = ridge_task()
    solve, expected = ridge(), DenseRidge(reg, x, y).hessian()

    def value(reg: Tensor) -> Tensor:
        return outer(solve(None, reg, x, y))

    for nested in (
        hessian(value),
        jacrev(jacrev(value)),
        jacfwd(jacrev(value)),
        jacrev(jacfwd(value)),
        jacfwd(jacfwd(value)),
    ):
        close(nested(reg), expected, 1e-8)
    leaf = reg.clone().requires_grad_()
    (first,) = torch.autograd.grad(value(leaf), leaf, create_graph=True)
    close(torch.stack([torch.autograd.grad(g, leaf, retain_graph=True)[0] for g in first]), expected, 1e-8)


def test_batches_of_tasks() -> None:
    """The derivative of a batch is batched; the solver runs task by task."""
    tasks = [ridge_task(seed) for seed in range(5)]
    reg, x, y = (torch.stack(parts) for parts in zip(*tasks, strict=True))
    each = [DenseRidge(*task).gradients() for task in tasks]
    solve = ridge(argnums=(1, 2, 3))

    def value(reg: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return outer(solve(None, reg, x, y))

    inside = vmap(grad(value, argnums=(0, 1, 2)))(reg, x, y)
    outside = grad(lambda *args: vmap(value)(*args).mean(), argnums=(0, 1, 2))(reg, x, y)
    by_backward = eager(lambda *args: vmap(value)(*args).sum(), reg, x, y)
    for i in range(3):
        expected = np.stack([g[i] for g in each])
        close(inside[i], expected, 1e-9)
        close(outside[i], expected / 5, 1e-9)
        close(by_backward[i], expected, 1e-9)
    close(vmap(hessian(value))(reg, x, y), np.stack([DenseRidge(*t).hessian() for t in tasks]), 1e-8)
    same = [DenseRidge(tasks[0][0], *t[1:]) for t in tasks]
    shared = grad(lambda reg: vmap(value, in_dims=(None, 0, 0))(reg, x, y).mean())(reg[0])
    close(shared, sum(d.gradients()[0] for d in same) / 5, 1e-9)


def test_solutions_and_arguments_may_be_any_trees() -> None:
    """The ridge problem with its parts in dictionaries, an integer among the data, and a solution in two pieces."""

    def objective(phi: Any, theta: Any, data: Any) -> Tensor:
        whole = torch.cat([phi["head"], phi["tail"][0]])
        return ridge_objective(whole, theta["reg"] ** data["power"], data["x"], theta["y"][0])

    def solve(phi: Any, theta: Any, data: Any) -> Any:
        whole = ridge_solution(None, theta["reg"] ** data["power"], data["x"], theta["y"][0])
        return {"head": whole[:1], "tail": [whole[1:]]}

    reg, x, y = ridge_task()
    theta, data = {"reg": reg, "y": [y], "name": "ridge"}, {"x": x, "power": 2, "labels": torch.arange(N)}

    def value(theta: Any) -> Tensor:
        phi = rooted(None, theta, data)
        return outer(torch.cat([phi["head"], phi["tail"][0]]))

    in_l, _, in_y = DenseRidge(reg**2, x, y).gradients()
    for option in (None, mf.CG(max_steps=12, rtol=0.0), tight("inv")):
        rooted = custom_root(grad(objective), argnums=1, solve=option)(solve)
        assert rooted(None, theta, data)["tail"][0].shape == (D - 1,)
        found = grad(lambda reg, y: value({"reg": reg, "y": [y], "name": "ridge"}), argnums=(0, 1))(reg, y)
        close(found[0], 2 * reg.numpy() * in_l, 1e-9)
        close(found[1], in_y, 1e-9)


def test_a_solution_in_pieces_is_one_system() -> None:
    """TorchOpt's solve_inv inverts the diagonal blocks of a system in pieces one by one, and is wrong in silence."""
    matrix = torch.randn(D, D)
    matrix = matrix @ matrix.T + torch.eye(D)
    theta = torch.ones(D)

    def pieces(phi: Any, theta: Tensor) -> Any:
        left = matrix @ torch.cat(phi) - theta
        return left[:1], left[1:]

    def solve(phi: Any, theta: Tensor) -> Any:
        whole = torch.linalg.solve(matrix, theta)
        return whole[:1], whole[1:]

    expected = np.linalg.solve(matrix.numpy(), np.arange(1.0, 1 + D))
    wrong: list[float] = []
    for decorator in (custom_root, theirs):
        rooted = decorator(pieces, argnums=1, solve=tight("inv"))(solve)
        start = theta[:1], theta[1:]
        (found,) = eager(lambda t, r=rooted, s=start: torch.cat(r(s, t)) @ torch.arange(1.0, 1 + D), theta)
        wrong.append(float(np.linalg.norm(found.numpy() - expected) / np.linalg.norm(expected)))
    assert wrong[0] < 1e-12
    assert wrong[1] > 0.1


def test_keyword_only_arguments_get_gradients() -> None:
    def objective(phi: Tensor, x: Tensor, *, y: Tensor, reg: Tensor) -> Tensor:
        return ridge_objective(phi, reg, x, y)

    @custom_root(grad(objective), argnums=(2, 3))
    def solve(phi: Tensor | None, x: Tensor, *, reg: Tensor, y: Tensor) -> Tensor:
        return ridge_solution(phi, reg, x, y)

    reg, x, y = ridge_task()
    found = grad(lambda reg, x, y: outer(solve(None, x, y=y, reg=reg)), argnums=(0, 1, 2))(reg, x, y)
    expected = DenseRidge(reg, x, y).gradients()
    close(found[0], expected[0], 1e-9)
    assert torch.equal(found[1], torch.zeros_like(x))
    close(found[2], expected[2], 1e-9)
    only_x = custom_root(grad(objective), argnums=1)(solve.__wrapped__)
    found = grad(lambda reg, x, y: outer(only_x(None, x, y=y, reg=reg)), argnums=(0, 1, 2))(reg, x, y)
    close(found[1], expected[1], 1e-9)
    assert torch.equal(found[0], torch.zeros_like(reg)) and torch.equal(found[2], torch.zeros_like(y))


def test_other_arguments_are_constants_in_every_mode() -> None:
    reg, x, y = ridge_task()
    solve, start = ridge(), torch.zeros(D)

    def value(start: Tensor, x: Tensor, reg: Tensor) -> Tensor:
        return outer(solve(start, reg, x, y))

    in_start, in_x, in_l = grad(value, argnums=(0, 1, 2))(start, x, reg)
    assert in_l.norm() > 0.01
    assert torch.equal(in_start, torch.zeros(D)) and torch.equal(in_x, torch.zeros_like(x))
    assert torch.equal(jvp(lambda s, x: value(s, x, reg), (start, x), (start + 1, x))[1], torch.zeros(()))
    mixed = jacrev(grad(value, argnums=2), argnums=1)(start, x, reg)
    assert torch.equal(mixed, torch.zeros(D, N, D))
    assert torch.equal(jacfwd(grad(value, argnums=2), argnums=1)(start, x, reg), torch.zeros(D, N, D))
    assert not solve(start.requires_grad_(), reg, x.requires_grad_(), y).requires_grad


def test_an_argument_that_the_root_does_not_depend_on_gets_zero() -> None:
    @custom_root(lambda phi, theta, rate: phi - theta, argnums=(1, 2))
    def solve(phi: Any, theta: Tensor, rate: Tensor) -> Tensor:
        return theta

    both = grad(lambda t, r: outer(solve(None, t, r)), argnums=(0, 1))(TARGET, torch.ones(()))
    close(both[0], 3 * TARGET**2, 1e-12)
    assert torch.equal(both[1], torch.zeros(()))


def test_aux_has_no_derivative() -> None:
    @custom_root(grad(ridge_objective), argnums=1, has_aux=True, solve=SHORT)
    def solve(phi: Any, *args: Tensor) -> Any:
        return ridge_solution(phi, *args), {"double": 2 * args[0], "count": torch.tensor(3), "any": marker}

    marker = object()
    reg, x, y = ridge_task()
    dense = DenseRidge(reg, x, y)

    def value(reg: Tensor) -> Tensor:
        phi, aux = solve(None, reg, x, y)
        return outer(phi) + (aux["double"] ** 2).sum() + aux["count"]

    close(grad(value)(reg), dense.gradients()[0], 1e-9)
    close(jacfwd(value)(reg), dense.gradients()[0], 1e-9)
    close(hessian(value)(reg), dense.hessian(), 1e-8)
    leaf = reg.clone().requires_grad_()
    phi, aux = solve(None, leaf, x, y)
    assert phi.requires_grad and not aux["double"].requires_grad
    assert torch.equal(aux["double"], 2 * reg) and aux["any"] is marker
    batch = torch.stack([reg, 2 * reg])
    doubled = vmap(lambda reg: solve(None, reg, x, y)[1]["double"])
    assert torch.equal(doubled(batch), 2 * batch)
    assert torch.equal(jacrev(doubled)(batch), torch.zeros(2, D, 2, D))
    assert torch.equal(jacfwd(doubled)(batch), torch.zeros(2, D, 2, D))


def test_aux_beside_tensors_is_the_same_for_all_tasks() -> None:
    @custom_root(lambda phi, theta, kind: phi - theta, argnums=1, has_aux=True)
    def solve(phi: Any, theta: Tensor, kind: str) -> Any:
        count = int(theta.sum().item())
        return theta, {
            "equal": ("text", 3, None, kind),
            "other": {"int": count, "tree": [1] * count}.get(kind),
        }

    tasks = torch.tensor([[1.0, 2.0], [2.0, 2.0]])
    seen: list[Any] = []
    vmap(lambda t: seen.append(solve(None, t, "none")[1]) or t)(tasks)
    assert seen == [{"equal": ("text", 3, None, "none"), "other": None}]
    for kind in ("int", "tree"):
        assert solve(None, tasks[0], kind)[1]["other"] in (3, [1, 1, 1])
        with raises(
            ValueError, "aux of solve: expected the same tree for every task under vmap, with the same values"
        ):
            vmap(lambda t, k=kind: solve(None, t, k)[0])(tasks)


def test_what_the_solver_sees() -> None:
    """Tensors without a history and gradients enabled; the initial parameters require one if they did."""
    flags: list[Any] = []

    @custom_root(lambda phi, theta, shift: phi["a"] * 2 - theta + shift, argnums=1)
    def solve(phi: Any, theta: Tensor, shift: Tensor) -> Tensor:
        flags.append(
            (phi["a"].requires_grad, theta.requires_grad, shift.requires_grad, torch.is_grad_enabled())
        )
        assert phi["a"].grad_fn is None and phi["n"] == 3
        return (theta - shift) / 2 + 0 * phi["a"]

    def value(theta: Tensor, start: Tensor, shift: Tensor) -> Tensor:
        return solve({"a": start, "n": 3, "i": torch.arange(2)}, theta, shift).sum()

    a, b = torch.ones(2), torch.zeros(2)
    value(a, b, b)
    assert not value(a, b.clone().requires_grad_(), b).requires_grad
    value(a.clone().requires_grad_(), 2 * b.clone().requires_grad_(), b.clone().requires_grad_())
    grad(lambda t: value(t, b, b).detach().sum() + t.sum())(a)
    grad(lambda t: value(t, t, t).detach().sum() + t.sum())(a)
    vmap(grad(lambda t: value(t, 2 * t, b).detach().sum() + t.sum()))(torch.stack([a, b]))
    plain, recorded = (False, False, False, True), (True, False, False, True)
    assert flags == [plain, recorded, recorded, plain, recorded, recorded, recorded]


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # torch's compiler looks at it
def test_torch_compile_leaves_it_alone() -> None:
    reg, x, y = ridge_task()
    solve = ridge()
    compiled = torch.compile(lambda reg: outer(solve(None, reg, x, y)), backend="eager")
    (found,) = eager(compiled, reg)
    close(found, DenseRidge(reg, x, y).gradients()[0], 1e-9)


def test_it_stays_the_users_function() -> None:
    solve = ridge()
    assert solve.__name__ == "ridge_solution" and solve.__wrapped__ is ridge_solution


# 4. Bad input


def raises(kind: type[Exception], text: str) -> Any:
    return pytest.raises(kind, match=re.escape(text))


@pytest.mark.parametrize("argnums", [0, -1, (), (1, 0), True, 1.0, "reg", (1, "reg"), None], ids=repr)
def test_wrong_argnums(argnums: Any) -> None:
    text = (
        f"argnums: expected a positive integer or a tuple of them, got {argnums!r}. Give argnums such a value"
    )
    with raises(ValueError, text):
        ridge(argnums=argnums)


def test_argnums_beyond_the_arguments() -> None:
    with raises(
        ValueError,
        "argnums: expected indices below 4, the number of arguments of ridge_solution, got (1, 4). Give argnums such a "
        "value, which counts the arguments of the solver from 0; the initial parameters, 0, have no gradient",
    ):
        ridge(argnums=(1, 4))(None, *ridge_task())


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (3, "int 3"),
        (None, "NoneType None"),
        (torch.arange(4), "int64[4] on cpu"),
        ({"a": 1}, "dict {'a': 1}"),
    ],
    ids=["int", "None", "integers", "dict"],
)
def test_an_argument_without_floats(value: Any, got: str) -> None:
    _, x, y = ridge_task()
    with raises(
        TypeError,
        "argument 1 of ridge_solution: expected a tree with a floating-point tensor, since argnums asks for its "
        f"gradient, got {got}. Pass a tensor, or leave the argument out of argnums",
    ):
        ridge()(None, value, x, y)


@pytest.mark.parametrize(
    ("residual", "text"),
    [
        (
            lambda phi, theta: (phi - theta,),
            "optimality_fn: expected *, as in the solution that solve returns, got Tree",
        ),
        (
            lambda phi, theta: (phi - theta)[:2],
            "optimality_fn at .: expected float64[4] on cpu, as in the solution",
        ),
        (
            lambda phi, theta: (phi - theta).float(),
            "got float32[4] on cpu. Return one equation for every entry",
        ),
        (lambda phi, theta: None, "got NoneType None. Return one equation for every entry of the solution"),
    ],
    ids=["tree", "shape", "dtype", "None"],
)
def test_a_residual_unlike_the_solution(residual: Any, text: str) -> None:
    def solve(phi: Any, theta: Tensor) -> Tensor:
        return theta

    with raises(ValueError, text):
        grad(lambda t: custom_root(residual, argnums=1)(solve)(None, t).sum())(TARGET)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            lambda t: t,
            "solve: expected a pair (solution, aux) with has_aux=True, got float64[4] on cpu. Return both",
        ),
        (lambda t: [t, 3], "solve: expected a pair (solution, aux) with has_aux=True, got list ["),
        (lambda t: (t, 1, 2), "solve: expected a pair (solution, aux) with has_aux=True, got tuple ("),
    ],
    ids=["tensor", "list", "three"],
)
def test_aux_without_a_pair(answer: Any, text: str) -> None:
    def solve(phi: Any, theta: Tensor) -> Any:
        return answer(theta)

    with raises(TypeError, text):
        custom_root(lambda phi, theta: phi - theta, argnums=1, has_aux=True)(solve)(None, TARGET)


@pytest.mark.parametrize(
    ("answer", "path", "got"),
    [
        (lambda t: (t, 3), "[1]", "int 3"),
        (lambda t: {"n": t.long()}, "['n']", "int64[4] on cpu"),
        (lambda t: None, ".", "NoneType None"),
        (lambda t: {}, ".", "dict {}"),
    ],
    ids=["aux", "integers", "None", "empty"],
)
def test_a_solution_that_is_none(answer: Any, path: str, got: str) -> None:
    def solve(phi: Any, theta: Tensor) -> Any:
        return answer(theta)

    with raises(
        TypeError,
        f"solve at {path}: expected a solution made of floating-point tensors, got {got}. Return the solution alone, or "
        "with has_aux=True a pair (solution, aux)",
    ):
        custom_root(lambda phi, theta: phi - theta, argnums=1)(solve)(None, TARGET)


def test_functions_that_do_not_take_the_same_arguments() -> None:
    def solve(phi: Any, theta: Tensor, *, steps: int = 3) -> Tensor:
        return theta

    with raises(
        TypeError,
        "optimality_fn: expected a function of the same arguments as solve, got one that cannot take them (got an "
        "unexpected keyword argument 'steps'). Give it the signature of solve",
    ):
        custom_root(lambda phi, theta: phi - theta, argnums=1)(solve)(None, TARGET)
    with raises(TypeError, "got one that cannot take them (too many positional arguments)"):
        custom_root(lambda phi: phi, argnums=1)(solve)(None, TARGET)
    with raises(TypeError, "missing a required argument: 'theta'"):
        custom_root(lambda phi, theta: phi - theta, argnums=1)(solve)(None)


def test_functions_and_solvers_that_are_none() -> None:
    with raises(
        TypeError, "custom_root: expected a function optimality_fn(params, *args) -> like the solution, got"
    ):
        custom_root("residual", argnums=1)  # type: ignore[arg-type]
    with raises(
        TypeError, "custom_root: expected a function solver_fn(params, *args) -> solution, got int 3"
    ):
        custom_root(lambda phi, theta: phi - theta, argnums=1)(3)  # type: ignore[arg-type]
    with raises(
        TypeError, "solver: expected a linear solver such as CG(max_steps=5), or a function solve(matvec, b)"
    ):
        ridge(solve="cg")


def test_captured_tensors_get_their_gradient() -> None:
    reg, x, y = ridge_task()

    def value(reg: Tensor) -> Tensor:
        @custom_root(grad(lambda phi, x: ridge_objective(phi, reg, x, y)), argnums=1)
        def solve(phi: Any, x: Tensor) -> Tensor:
            return ridge_solution(phi, reg.detach(), x, y)

        return outer(solve(None, x))

    close(grad(value)(reg), grad(lambda r: outer(ridge_solution(None, r, x, y)))(reg), 1e-6)
