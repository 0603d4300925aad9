"""Random numbers that differ from one inner step to the next."""

from __future__ import annotations

from dataclasses import replace

import torch

from metafunc import errors, tree
from metafunc.inner import Args, Gradient, Inner, remembered
from metafunc.philox import fold_in
from metafunc.tree import Tree


@remembered
def with_step_keys(inner: Inner) -> Inner:
    """The same inner problem, whose losses draw from another key in every step.

    The last data argument is a key (see :func:`~metafunc.functional`), ``adapt(theta, *data, key)``; step ``k`` gets
    ``mf.fold_in(key, k)`` in its place. The number of the step is part of the solver's state, so that looped, mapped
    and recomputed runs draw the same numbers. Estimators of the solution (``Implicit``, ``FiniteDifference``)
    differentiate the objective of the key itself.

    Args:
        inner: An inner problem solved by steps, without a ``tolerance``.

    Raises:
        TypeError: If it has no steps, or is no inner problem.
        ValueError: If it stops at a tolerance, which one gradient among many random ones does not tell of.
    """
    if not isinstance(inner, Inner):
        raise errors.not_an_inner_problem("with_step_keys", inner)
    if inner.step is None:
        raise errors.needs_path("with_step_keys", inner.name)
    if inner.tolerance:
        raise errors.out_of_range(
            "tolerance", inner.tolerance, "0 where steps differ at random", "leave it out"
        )
    begin, step = inner.begin, inner.step

    def first(phi: Tree) -> tuple[Tree, ...]:
        like = tree.leaves(phi)[0]
        return (*begin(phi), torch.zeros_like(like.sum(), dtype=torch.float32))  # exact up to 2^24 steps

    def advance(gradient: Gradient, state: Tree, args: Args) -> Tree:
        *rest, count = state

        def keyed(phi: Tree, at: Args) -> Tree:
            *data, key = at.data
            return gradient(phi, at._replace(data=(*data, fold_in(key, count.detach()))))

        return (*step(keyed, tuple(rest), args), count + 1)

    return replace(inner, begin=first, step=advance, name=f"with_step_keys({inner.name})")
