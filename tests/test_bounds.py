"""The bounds hold for every path of Hessians that they are for, and are attained where the docstrings say so."""

from __future__ import annotations

import math

import pytest
import torch

import metafunc as mf
from metafunc import bounds

K, LR = 4, 0.5


@mf.iterates(steps=K, init=lambda theta: {"x": theta, "k": torch.zeros((), dtype=theta.dtype)})
def prescribed(phi, theta, hessians):
    """A step of gradient descent on a quadratic that is another one in each step."""
    chosen = (torch.arange(K) == phi["k"].detach()).to(theta.dtype)
    hessian = torch.einsum("k,kij->ij", chosen, hessians)
    return {"x": phi["x"] - LR * hessian @ phi["x"], "k": phi["k"] + 1}


def error(estimator, hessians):
    """The largest error over all g of norm 1, for a batch of paths [n, K, d, d]; the exact product by hand."""
    eye = torch.eye(hessians.shape[-1], dtype=hessians.dtype)
    exact = eye
    for k in range(K):
        exact = exact @ (eye - LR * hessians[:, k])
    adapt = estimator(prescribed)

    def pulled(g, h):
        return torch.func.grad(lambda theta: g @ adapt(theta, h)["x"])(torch.zeros_like(g))

    columns = torch.func.vmap(lambda h: torch.func.vmap(lambda g: pulled(g, h))(eye))(hessians)
    return torch.linalg.matrix_norm(columns.mT - exact, ord=2)


def paths(low, high, n=400, d=2, seed=0):
    """Random Hessians, half of them with eigenvalues at the ends; low and high a number for each step."""
    draws = torch.Generator().manual_seed(seed)
    low, high = (torch.as_tensor(x, dtype=torch.float64).expand(K)[:, None] for x in (low, high))
    bases = torch.linalg.qr(torch.randn(n, K, d, d, generator=draws, dtype=torch.float64))[0]
    part = torch.rand(n, K, d, generator=draws, dtype=torch.float64)
    part[: n // 2] = part[: n // 2].round()
    return bases @ torch.diag_embed(low + (high - low) * part) @ bases.mT


def constant(*values):
    return torch.diag_embed(torch.tensor(values, dtype=torch.float64)[None, :, None].expand(1, K, 2))


ESTIMATORS = [
    mf.FirstOrder(),
    *(mf.Truncated(n) for n in range(K + 1)),
    *(mf.Binomial(n) for n in range(K + 1)),
]
each = pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)


@each
@pytest.mark.parametrize("h", [0.3, 3.0])
def test_lipschitz_holds_and_is_attained(estimator, h):
    bound = bounds.lipschitz(estimator, LR * h, K)
    assert error(estimator, paths(-h, h)).max() <= bound + 1e-9
    assert error(estimator, constant(*[-h] * K)).item() == pytest.approx(bound, abs=1e-9)


@each
@pytest.mark.parametrize("h", [0.5, 2.0])
def test_convex_holds(estimator, h):
    assert error(estimator, paths(0.0, h)).max() <= bounds.convex(estimator, LR * h, K) + 1e-12
    same = paths(0.0, h, n=50)
    same = same[:, :1].expand_as(same)
    assert error(estimator, same).max() <= bounds.convex(estimator, LR * h, K, commuting=True) + 1e-12


@pytest.mark.parametrize("depth", range(K + 1))
def test_convex_is_attained_by_truncated(depth):
    path = constant(*[1.5] * (K - depth), *[0.0] * depth)
    bound = bounds.convex(mf.Truncated(depth), 0.75, K, commuting=True)
    assert error(mf.Truncated(depth), path).item() == pytest.approx(bound, abs=1e-12)


def test_convex_is_attained_where_one_factor_is_left():
    assert error(mf.Binomial(K - 1), constant(*[1.5] * K)).item() == pytest.approx(0.75**K)
    assert bounds.convex(mf.Binomial(K - 1), 0.75, K) == pytest.approx(0.75**K)
    assert bounds.convex(mf.Truncated(K - 1), 0.75, K) == pytest.approx(0.75)


def test_the_published_convex_bound_is_exceeded_by_two_projections():
    across, slant = torch.tensor([[0.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    path = torch.stack([across, slant, torch.zeros(2, 2), torch.zeros(2, 2)])[None].double()
    found = error(mf.FirstOrder(), path).item()
    assert found == pytest.approx(math.sqrt(0.75 + math.sqrt(5) / 4))
    assert bounds.convex(mf.FirstOrder(), 1.0, 2, commuting=True) == 1.0
    assert found < bounds.convex(mf.FirstOrder(), 1.0, 2) == 1.5


@each
@pytest.mark.parametrize("last", range(K + 1))
@pytest.mark.parametrize(("h", "least"), [(0.5, 0.1), (2.0, 0.4), (2.0, 2.0)])
def test_strongly_convex_holds(estimator, last, h, least):
    low = torch.tensor([-h] * (K - last) + [least] * last)
    options = {"least": LR * least, "last": last}
    path = torch.cat([paths(low, h, n=200), constant(*low), constant(*[h] * K)])
    assert error(estimator, path).max() <= bounds.strongly_convex(estimator, LR * h, K, **options) + 1e-9
    eigenvalues = torch.diagonal(paths(low, h, n=200), dim1=-2, dim2=-1)  # within the range of the spectrum
    aligned = torch.cat([torch.diag_embed(eigenvalues), path[-2:]])
    bound = bounds.strongly_convex(estimator, LR * h, K, commuting=True, **options)
    assert error(estimator, aligned).max() <= bound + 1e-9


def test_strongly_convex_is_13_of_the_paper_where_that_is_right():
    a, b, m, n = 0.25, 0.025, 1, 2
    truncated = ((1 + a) ** (5 - m) - (1 + a) ** (n - m)) * (1 - b) ** m
    options = {"least": b, "last": m}
    assert bounds.strongly_convex(mf.Truncated(n), a, 5, **options) == pytest.approx(truncated)
    first = max((1 + a) ** 4 * (1 - b) - 1, 1 - (1 - a) ** 5)
    found = bounds.strongly_convex(mf.FirstOrder(), a, 5, commuting=True, **options)
    assert found == pytest.approx(first)
    # C(4, 2) a^3 and (1 - b) (C(4, 3) a^3 + a^4)
    binomial = 6 * a**3 + (1 - b) * (4 * a**3 + a**4)
    assert bounds.strongly_convex(mf.Binomial(n), a, 5, **options) == pytest.approx(binomial)


@pytest.mark.parametrize("reach", [0.1, 1.0, 4.0])
def test_the_order_of_theorem_36_is_strict_between_the_ends_alone(reach):
    first = bounds.lipschitz(mf.FirstOrder(), reach, 5)
    for n in range(1, 5):
        pair = [bounds.lipschitz(kind(n), reach, 5) for kind in (mf.Binomial, mf.Truncated)]
        assert pair[0] < pair[1] < first
    assert bounds.lipschitz(mf.Binomial(0), reach, 5) == pytest.approx(first)
    assert bounds.lipschitz(mf.Binomial(5), reach, 5) == bounds.lipschitz(mf.Truncated(5), reach, 5) == 0


def test_the_order_turns_at_large_steps():
    assert (
        bounds.convex(mf.Binomial(1), 1.0, 5)
        == 10
        > 1
        == bounds.convex(mf.Truncated(1), 1.0, 5, commuting=True)
    )
    options = {"least": 0.5, "last": 1}
    assert bounds.strongly_convex(mf.Binomial(1), 1.0, 5, **options) == pytest.approx(4 + 11 * 0.5)
    assert bounds.strongly_convex(mf.Truncated(1), 1.0, 5, **options) == pytest.approx(15 * 0.5)


REFUSED = {
    "steps": (
        lambda: bounds.lipschitz(mf.FirstOrder(), 1.0, 0),
        "steps: expected an integer of at least 1, got 0",
    ),
    "reach": (
        lambda: bounds.lipschitz(mf.FirstOrder(), -1.0, 2),
        "reach: expected a number of at least 0, got -1.0",
    ),
    "infinite": (
        lambda: bounds.lipschitz(mf.FirstOrder(), math.inf, 2),
        "reach: expected a number of at least 0, got inf",
    ),
    "steep": (
        lambda: bounds.convex(mf.FirstOrder(), 1.1, 2),
        r"reach: expected a number in \[0, 1\], got 1.1",
    ),
    "least": (
        lambda: bounds.strongly_convex(mf.FirstOrder(), 0.5, 2, least=0.6, last=1),
        r"least: expected a number in \[0, 0.5\], got 0.6",
    ),
    "last": (
        lambda: bounds.strongly_convex(mf.FirstOrder(), 0.5, 2, least=0.1, last=3),
        "last: expected an integer in 0..2, got 3",
    ),
    "long": (lambda: bounds.convex(mf.Truncated(3), 0.5, 2), "estimator: expected at most 2 steps expanded"),
    "window": (lambda: bounds.convex(mf.Binomial(1, window=2), 0.5, 3), "estimator: expected Binomial"),
    "rescale": (lambda: bounds.convex(mf.Binomial(1, rescale=True), 0.5, 3), "estimator: expected Binomial"),
}


@pytest.mark.parametrize(("call", "text"), REFUSED.values(), ids=REFUSED)
def test_what_the_bounds_are_not_for_is_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_another_estimator_is_refused():
    with pytest.raises(TypeError, match=r"estimator: expected FirstOrder\(\), Truncated"):
        bounds.convex(mf.Explicit(), 0.5, 3)
