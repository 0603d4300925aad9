"""The extreme eigenvalues of the inner Hessian, on request: what decides which estimator can be trusted."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metafunc import tree
from metafunc.autodiff import vjp
from metafunc.inner import Args, Inner, plain_gradient, relative
from metafunc.linear.solver import Matvec
from metafunc.rule import Stats
from metafunc.tree import Tree


def spectrum(inner: Inner, phi: Tree, args: Args, steps: int) -> Stats:
    """Estimates of the extreme eigenvalues of the Hessian, from a few steps of Lanczos' method.

    Maths: the extreme Ritz values of the Krylov space of one random vector. They lie inside the spectrum, so the
    largest is estimated from below and the smallest from above.

    Args:
        inner: An inner problem with an objective.
        phi: Its solution.
        args: Its arguments.
        steps: The steps of Lanczos' method; five to ten give the largest eigenvalue to a few per cent.

    Returns:
        ``curvature_min`` and ``curvature_max`` at ``phi``. Where the solver has an ``lr``, also ``reach_max``, the
        largest eigenvalue of ``lr H``, and ``reach``, the largest in magnitude, which is what
        :mod:`metafunc.bounds` calls so: each at the start or at ``phi``, whichever is larger. (With rates of both
        signs, they are bounds of these.)

    Cost: ``steps`` products at each of the two points.
    """
    low, high = extremes(_products(inner, phi, args, None), *tree.ravel(phi)[:1], steps)
    found = {"curvature_min": low, "curvature_max": high}
    if inner.steps and "lr" in inner.settings:
        lr = inner.settings["lr"](args)
        ends = [
            _signed(lr, *extremes(_products(inner, p, args, lr), *tree.ravel(p)[:1], steps))
            for p in (inner.init(args), phi)
        ]
        lows, highs = zip(*ends, strict=True)
        found["reach_max"] = torch.maximum(*highs)
        found["reach"] = torch.maximum(found["reach_max"].abs(), torch.minimum(*lows).abs())
    return found


def _signed(lr: object, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The extreme eigenvalues of ``lr H`` from those of ``|lr|^(1/2) H |lr|^(1/2)``."""
    upward = torch.stack([(torch.as_tensor(x) < 0).all() for x in tree.leaves(lr)]).all()
    return torch.where(upward, -high, low), torch.where(upward, -low, high)


def _products(inner: Inner, phi: Tree, args: Args, lr: object) -> Matvec:
    """``w -> H w``; with ``lr`` the symmetric ``|lr|^(1/2) H |lr|^(1/2)``, with the eigenvalues of ``|lr| H``."""
    gradient = plain_gradient(inner.objective)
    _, pull = vjp(lambda p: gradient(p, args), phi)
    unravel = tree.ravel(phi)[1]
    root = None if lr is None else tree.map(lambda x: abs(x) ** 0.5, lr)

    def product(w: Tensor) -> Tensor:
        if root is None:
            return tree.ravel(pull(unravel(w))[0])[0]
        return tree.ravel(tree.scale(root, pull(tree.scale(root, unravel(w)))[0]))[0]

    return product


def extremes(matvec: Matvec, like: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The smallest and the largest Ritz value of a symmetric matrix on vectors like ``like``."""
    draw = np.random.default_rng(0)  # not torch's, which vmap would have to be asked for

    def random() -> Tensor:
        # Zeros like `like` make it as batched as the products will be.
        return torch.as_tensor(draw.standard_normal(like.shape)).to(
            like, non_blocking=True
        ) + torch.zeros_like(like)

    basis: list[Tensor] = []
    rows: list[Tensor] = []
    q, count = _unit(random()), min(steps, like.numel())
    for _ in range(count):
        basis.append(q)
        product = matvec(q)
        space = torch.stack(basis)
        rows.append(torch.nn.functional.pad(space @ product, (0, count - len(basis))))
        ahead, fresh = _without(product, space), _without(random(), space)
        # Where the Krylov space ends early (a few distinct eigenvalues), a new vector goes on.
        ended = tree.norm(ahead) <= 100 * torch.finfo(like.dtype).eps * tree.norm(product)
        q = _without(_unit(torch.where(ended, fresh, ahead)), space)
    eigvalsh: Any = getattr(torch.linalg, "eigvalsh")  # noqa: B009  (torch does not type it)
    ritz: Tensor = eigvalsh(torch.stack(rows), UPLO="L")  # row j holds q_i . A q_j for i <= j
    return ritz[0], ritz[-1]


def _unit(x: Tensor) -> Tensor:
    return relative(x, tree.norm(x))


def _without(x: Tensor, space: Tensor) -> Tensor:
    """``x`` less its part in the span of some orthonormal rows."""
    return x - (space @ x) @ space
