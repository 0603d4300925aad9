"""How far the estimates of BinomMAML's paper can be from the exact meta-gradient, as multiples of ``||g_K||``.

All bounds are for ``K = steps`` steps of gradient descent without prox that start at ``theta``, by ``reach = lr H``,
where ``H`` bounds the norms of the Hessians ``H_k`` of the inner objective along the path. The exact gradient is
``prod_{k=0}^{K-1} (I - lr H_k) g_K``. ``FirstOrder`` counts as ``Truncated(0)``.

The paper orders products of different Hessians by their eigenvalues, in (12a), (12b) and (13a). Such products are not
symmetric, and these three bounds are exceeded by Hessians that do not commute: two projections onto lines at 45 degrees
(``reach = 1``, ``K = 2``) leave first-order MAML an error of 1.14, where (12a) allows 1. They are here under
``commuting=True`` (a quadratic inner objective is such a case); without it, bounds stand in their place that always
hold.
"""

from __future__ import annotations

import math

from metafunc import errors, options
from metafunc.estimators import Binomial, FirstOrder, Truncated

Bounded = FirstOrder | Truncated | Binomial


def lipschitz(estimator: Bounded, reach: float, steps: int) -> float:
    """The bound for Hessians of norm at most ``H``.

    Maths: ``(1 + a)^K - (1 + a)^L`` for ``Truncated(L)``, ``sum_{l>L} C(K, l) a^l`` for ``Binomial(L)``, ``a = lr H``.

    Source: binommaml Theorem 3.6, (11). Sharp, with ``H_k = -H I``. The order binomial < truncated < first-order is
    strict for ``0 < L < K`` alone: at ``L = 0`` all three are equal, at ``L = K`` the first two are zero.

    Raises:
        TypeError: If the estimator is another one.
        ValueError: If a number is out of range, or the estimator has a ``window`` or rescales.
    """
    length = _length(estimator, steps)
    options.number("reach", reach, 0.5)
    if isinstance(estimator, Binomial):
        return _chains(reach, 0.0, steps, 0, length)
    return (1 + reach) ** steps - (1 + reach) ** length


def convex(estimator: Bounded, reach: float, steps: int, *, commuting: bool = False) -> float:
    """The bound for ``0 <= H_k <= H`` and ``lr H <= 1``.

    Maths: ``C(K, L+1) a^(L+1)`` for ``Binomial(L)``. For ``Truncated(L)``, with ``n = K - L`` steps left out:
    ``1 - (1 - a)^n`` if the Hessians commute, else ``2 - 2 (1 - a/2)^n``, from ``I - lr H_k = (1 - a/2) I + (a/2) R_k``
    with ``||R_k|| <= 1``.

    Source: binommaml Theorem 3.8, (12). The truncated bound is sharp for commuting Hessians (``H I`` in the first ``n``
    steps, then zero), the other one at ``n = 1``; the binomial bound is sharp at ``L = K - 1``. No order is claimed: at
    ``a = 1`` the binomial bound is ``C(K, L+1)``, above the truncated one's 1 for ``L < K - 1``.

    Raises:
        TypeError: If the estimator is another one.
        ValueError: If a number is out of range, or the estimator has a ``window`` or rescales.
    """
    length = _length(estimator, steps)
    options.boolean("commuting", commuting)
    options.number("reach", reach, 0.5, high=1.0, ends="[]")
    if isinstance(estimator, Binomial):
        return math.comb(steps, length + 1) * reach ** (length + 1)
    left_out = steps - length
    return 1 - (1 - reach) ** left_out if commuting else 2 - 2 * (1 - reach / 2) ** left_out


def strongly_convex(
    estimator: Bounded, reach: float, steps: int, *, least: float, last: int, commuting: bool = False
) -> float:
    """The bound for ``||H_k|| <= H`` and ``lr H <= 1``, with ``h <= H_k`` in the last ``M`` steps.

    Maths: with ``a = lr H``, ``b = lr h``, and ``S(n, m, L) = a^(L+1) sum_{l=1}^m C(n-l, L) (1-b)^(l-1) + (1-b)^m
    sum_{l>L} C(n-m, l) a^l``: ``S(K, M, L)`` for ``Binomial(L)``; for ``Truncated(L)``, with ``c = min(L, M)``,
    ``(1+a)^(L-c) (1-b)^c S(K-L, M-c, 0)``. If the Hessians commute, ``S(n, m, 0)`` gives way to
    ``max{(1+a)^(n-m) (1-b)^m - 1, 1 - (1-a)^n}``.

    Source: binommaml Theorem 3.10, (13). Differs in: (13b) is wrong for ``L < M``, where its ``(1+a)^(L-M)`` is no
    bound of a norm, and is extended here as above; ``M <= K - L`` is not needed. (13c) is not always below (13b): at
    ``a = 1``, ``K = 5``, ``M = L = 1`` it is ``4 + 11 (1-b)`` against ``15 (1-b)``.

    Args:
        estimator: One of the three.
        reach: ``lr H``, in ``0..1``.
        steps: ``K``.
        least: ``lr h``, in ``0..reach``.
        last: ``M``, in ``0..K``.
        commuting: Whether the Hessians of all steps commute.

    Raises:
        TypeError: If the estimator is another one.
        ValueError: If a number is out of range, or the estimator has a ``window`` or rescales.
    """
    length = _length(estimator, steps)
    options.boolean("commuting", commuting)
    options.number("reach", reach, 0.5, high=1.0, ends="[]")
    options.number("least", least, 0.0, high=reach, ends="[]")
    options.integer("last", last, 1, low=0, high=steps)
    if isinstance(estimator, Binomial):
        return _chains(reach, least, steps, last, length)
    kept = min(length, last)
    left, curved = steps - length, last - kept
    if commuting:
        most = (1 + reach) ** (left - curved) * (1 - least) ** curved
        deviation = max(most - 1, 1 - (1 - reach) ** left)
    else:
        deviation = _chains(reach, least, left, curved, 0)
    return (1 + reach) ** (length - kept) * (1 - least) ** kept * deviation


def _chains(a: float, b: float, steps: int, last: int, length: int) -> float:
    """A bound of the sum of all chains of more than ``length`` factors: (13c)."""
    curved = sum(math.comb(steps - i, length) * (1 - b) ** (i - 1) for i in range(1, last + 1))
    free = sum(math.comb(steps - last, i) * a**i for i in range(length + 1, steps - last + 1))
    return a ** (length + 1) * curved + (1 - b) ** last * free


def _length(estimator: Bounded, steps: int) -> int:
    """``L``, after checks of both arguments."""
    options.integer("steps", steps, 5)
    if isinstance(estimator, Binomial):
        if estimator.window is not None or estimator.rescale:
            raise errors.out_of_range(
                "estimator", estimator, "Binomial(order) alone", "without a window and without rescale"
            )
        length = estimator.order
    elif isinstance(estimator, Truncated):
        length = estimator.depth
    elif isinstance(estimator, FirstOrder):
        length = 0
    else:
        raise errors.not_a("estimator", "FirstOrder(), Truncated(depth) or Binomial(order)", estimator)
    if length > steps:
        raise errors.out_of_range(
            "estimator", estimator, f"at most {steps} steps expanded", "or more steps to the inner loop"
        )
    return length
