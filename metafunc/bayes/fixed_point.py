"""The paper's closed form of the implicit gradient, as another way to say what the inner solution solves."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from metafunc import errors as core_errors
from metafunc import tree
from metafunc.bayes import errors
from metafunc.bayes.elbo import Elbo
from metafunc.curvature import Exact
from metafunc.inner import Args, Inner, remembered
from metafunc.tree import Tree


@remembered
def fixed_point(inner: Inner) -> Inner:
    """The same inner problem, whose solution is said to solve ibaml's equations (26) and (27).

    Around it :class:`~metafunc.Implicit` gives the closed form of ibaml's Lemma 1 and (16), (17), with Hessian-vector
    products of the expected loss alone; without it, the derivative of where the gradient of the objective vanishes.

    Maths: with ``L`` the expected loss, ``w = kl_weight``, variances ``d = exp s``, and
    ``r = d_t / d + 2 (dL/ds_t) / w``, which is 1 at a stationary point, the equations are
    ``m_t = m - d (dL/dm_t) / w`` and ``d_t = d_t / r``. Scaled so that their Jacobian in ``(m_t, s_t)`` is symmetric,
    it is ``H = L'' + diag(w / d, w r^2 / 2 - dL/ds_t)``; then ``theta_bar = (w u_m / d, -(dL/dm_t) u_m + w (d_t / d)
    u_s / 2)`` for ``H u = v``.

    Source: ibaml Lemma 1, in the coordinates of its appendix A.4, with a weight of the divergence.

    Exact when: ``phi`` is stationary, where it equals ``Implicit`` of the problem as it was. Off it the two differ by
    terms of the order of the gradient: there the closed form has ``-dL/dm_t`` for ``w (m_t - m) / d``, and ``r`` for 1.
    See ``docs/bayes.md`` for which is nearer.

    Args:
        inner: An inner problem whose objective is an :class:`Elbo`.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(inner, Inner):
        raise core_errors.not_an_inner_problem("fixed_point", inner)
    elbo = next((f for f in inner.functions if isinstance(f, Elbo)), None)
    objective = inner.objective
    if elbo is None or objective is None:
        raise errors.not_bayesian(inner.name)
    weight = elbo.kl_weight

    # By subtraction, so that what a solver adds to the objective (prox, weight decay) counts as loss.
    def expected(phi: Tree, args: Args) -> Tensor:
        return objective(phi, args) - elbo.penalty(phi, args.theta)

    gradient = Exact().gradient(replace(inner, objective=expected))

    # A factor of an equation does not change its solution, nor any derivative of it: the factors are constants.
    def of_mean(m_t: Tensor, slope: Tensor, m: Tensor, s: Tensor) -> Tensor:
        return weight * torch.exp(-s).detach() * (m_t - m + torch.exp(s) * slope / weight)

    def of_log_variance(s_t: Tensor, slope: Tensor, s: Tensor) -> Tensor:
        d_t = torch.exp(s_t)
        r = d_t * torch.exp(-s) + 2 * slope / weight
        return 0.5 * weight * (r**2 / d_t).detach() * (d_t - d_t / r)

    def residual(phi: Tree, args: Args) -> Tree:
        slope, theta = gradient(phi, args), args.theta
        found = {"mean": tree.map(of_mean, phi["mean"], slope["mean"], theta["mean"], theta["log_variance"])}
        if elbo.variance is None:
            name = "log_variance"
            found[name] = tree.map(of_log_variance, phi[name], slope[name], theta[name])
        return found

    return replace(inner, residual=residual, symmetric=True, name=f"fixed_point({inner.name})")
