"""Newton's method with search directions from conjugate gradients: Hessian-free optimisation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metafunc import autodiff, options, tree
from metafunc.curvature import Curvature, Exact, check_curvature
from metafunc.inner import Args, Inner, Objective, plain_gradient, remembered
from metafunc.linear import CG, LinearSolver, as_solver
from metafunc.settings import Setting
from metafunc.solvers.problem import check_limits, problem
from metafunc.tree import Tree


@remembered
def newton_cg(
    loss: Callable[..., Tensor] | None = None,
    *,
    steps: int = 3,
    solver: LinearSolver = CG(max_steps=5),
    curvature: Curvature = Exact(),
    backtracks: int = 10,
    prox: Setting = 0.0,
    weight_decay: Setting = 0.0,
    tolerance: float = 0.0,
    early_exit: bool = True,
    objective: Callable[..., Tensor] | None = None,
    init: Callable[[Tree], Tree] | None = None,
) -> Inner:
    """Newton-CG (Hessian-free) with a backtracking line search, for ``Implicit`` and ``FiniteDifference``.

    Maths: in each step ``H p = -grad g`` is solved by a few steps of CG; then ``phi <- phi + t p`` with the first
    ``t`` of ``1, 1/2, 1/4, ...`` for which ``g(phi + t p) <= g(phi) + 1e-4 t <grad g, p>``, up to rounding. Where the
    direction is none of descent (the first direction of CG met negative curvature) the step goes along ``-grad g``.

    Source: imaml section 4 and F.2 (3 steps, 5 steps of CG each); Nocedal and Wright, Algorithm 7.1.

    The line search has no derivative, and none is needed: an implicit estimator looks at the solution only. A search
    that finds no descent leaves ``phi`` where it is; ``stats["stationarity"]`` of the estimator then tells of it, and
    ``mf.check`` raises.

    Args:
        loss: As for :func:`~metafunc.gradient_descent`.
        steps: The number of Newton steps.
        solver: Finds the direction; its ``damping`` is that of Levenberg and Marquardt.
        curvature: The products with the Hessian; ``GaussNewton()`` never has negative curvature.
        backtracks: How often the step may be halved.
        prox: As for :func:`~metafunc.gradient_descent`.
        weight_decay: As for :func:`~metafunc.gradient_descent`.
        tolerance: A task whose gradient has a norm of at most this takes no further step, while others go on.
        early_exit: Whether the loops end (the steps once all tasks have reached the tolerance, a line search once all
            have found a step), at each turn of which the host waits for a GPU. ``False`` takes ``steps`` and
            ``backtracks`` in full without waiting, to the same result. The ``solver`` has its own.
        objective: As for :func:`~metafunc.gradient_descent`.
        init: As for :func:`~metafunc.gradient_descent`.

    Cost: a step takes one gradient, ``solver.max_steps`` products, and one value of the objective for every ``t`` that
    some task still tries.

    Raises:
        ValueError, TypeError: If an option is out of range or of another kind.
    """
    check_limits(steps, tolerance, early_exit)
    options.integer("backtracks", backtracks, 10, low=0)
    check_curvature(curvature)
    direction_solver = as_solver(solver)

    def minimize(inner: Inner, start: Tree, args: Args) -> Tree:
        objective, hessian = inner.objective, curvature.hessian(inner)
        assert objective is not None
        gradient, phi = plain_gradient(objective), tree.map(torch.clone, start)
        for _ in range(steps):
            slope = gradient(phi, args)
            flat, unravel = tree.ravel(slope)
            done = tree.norm(flat) <= inner.tolerance
            if early_exit and autodiff.all_true(done):
                break
            product = hessian(phi, args)
            p, _ = direction_solver.solve(lambda w, h=product, u=unravel: tree.ravel(h(u(w)))[0], -flat)
            p = torch.where(p @ flat < 0, p, -flat)
            p = torch.where(done, torch.zeros_like(p), p)
            phi = _search(objective, args, phi, unravel(p), p @ flat, backtracks, early_exit)
        return phi

    goal = problem("newton_cg", loss, objective, init, prox=prox, weight_decay=weight_decay)
    inner = goal.inner(
        f"newton_cg(steps={steps})", minimize=minimize, tolerance=tolerance, early_exit=early_exit
    )
    curvature.hessian(inner)  # raises now if it cannot serve this problem
    return inner


def _search(
    objective: Objective,
    args: Args,
    phi: Tree,
    p: Tree,
    slope: Tensor,
    backtracks: int,
    early_exit: bool,
) -> Tree:
    """The first point along ``p`` with sufficient decrease, or ``phi`` itself if none of those tried has it."""
    value = objective(phi, args)
    slack = (
        10 * torch.finfo(value.dtype).eps * value.abs()
    )  # near the solution the decrease drowns in rounding
    found, taken = slope >= 0, torch.zeros_like(value)
    for k in range(backtracks + 1):
        t = 0.5**k
        there = objective(tree.add(phi, tree.scale(t, p)), args)
        enough = there <= value + 1e-4 * t * slope + slack
        taken = torch.where(~found & enough, t, taken)
        found = found | enough
        if early_exit and autodiff.all_true(found):
            break
    return tree.add(phi, tree.scale(taken, p))
