"""A batch of data of its own for second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from metafunc import errors
from metafunc.inner import Args, Inner, Parts, remembered


@remembered
def with_hessian_batch(inner: Inner) -> Inner:
    """The same inner problem with a batch of data of its own for second derivatives.

    ``adapt(theta, *data, *hessian_data)`` then takes twice as many data arguments: the solver and all first and mixed
    derivatives see the first half, the Hessian of every product is that of the second half.

    Source: hf-maml, Algorithms 1 and 3, where ``D_in`` and ``D_h`` are drawn independently.

    Bias: none on average over independent batches; for one draw the result is the derivative of no function, so a
    second derivative is refused.

    Args:
        inner: An inner problem with an objective.

    Raises:
        TypeError: If it has no objective, or is no inner problem.
        ValueError: At the call, if the number of data arguments is odd.
    """
    if not isinstance(inner, Inner):
        raise errors.not_an_inner_problem("with_hessian_batch", inner)
    if inner.objective is None:
        raise errors.needs_objective("with_hessian_batch", inner.name)
    objective, parts, solve = inner.objective, inner.parts, inner.solve

    def half(args: Args, second: bool = False) -> Args:
        count = len(args.data)
        if count % 2 or not count:
            raise errors.odd_data(count)
        return args._replace(data=args.data[count // 2 :] if second else args.data[: count // 2])

    return replace(
        inner,
        objective=lambda phi, args: objective(phi, half(args)),
        curved=lambda phi, args: objective(phi, half(args, second=True)),
        parts=None if parts is None else _at_other_data(parts, lambda args: half(args, second=True)),
        solve=None if solve is None else lambda args: solve(half(args)),
        name=f"with_hessian_batch({inner.name})",
    )


def _at_other_data(parts: Parts, other: Callable[[Args], Args]) -> Parts:
    model, criterion, rest = parts
    return Parts(
        lambda phi, args: model(phi, other(args)),
        lambda out, args: criterion(out, other(args)),
        None if rest is None else lambda phi, args: rest(phi, other(args)),
    )
