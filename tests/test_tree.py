"""Trees as vectors: the laws of a vector space, by random trees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metafunc import tree
from tests.tasks import close

shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
nestings = st.recursive(
    shapes,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, min_size=1)
    ),
    max_leaves=5,
)


def fill(nesting: Any) -> Any:
    if isinstance(nesting, tuple):
        return torch.randn(nesting, dtype=torch.float64)
    if isinstance(nesting, dict):
        return {key: fill(value) for key, value in nesting.items()}
    return [fill(value) for value in nesting]


@settings(max_examples=40, deadline=None)
@given(nestings)
def test_the_algebra_is_that_of_the_flat_vectors(nesting: Any) -> None:
    x, y = fill(nesting), fill(nesting)
    (a, unravel), (b, _) = tree.ravel(x), tree.ravel(y)
    close(tree.ravel(tree.add(x, tree.scale(2.5, y)))[0], a + 2.5 * b, 1e-14)
    close(tree.ravel(tree.sub(x, tree.neg(y)))[0], a + b, 1e-14)
    close(tree.ravel(tree.scale(y, x))[0], a * b, 1e-14)
    close(tree.dot(x, y) + 10, a @ b + 10, 1e-13)
    close(tree.norm(x), a.norm(), 1e-13)
    assert tree.structure(unravel(a)) == tree.structure(x)
    assert all(torch.equal(p, q) for p, q in zip(tree.leaves(unravel(a)), tree.leaves(x), strict=True))
    assert tree.norm(tree.zeros_like(x)) == 0
    assert torch.equal(tree.ravel(tree.index(tree.stack([x, y]), 1))[0], b)
    assert len(tree.paths(x)) == len(tree.leaves(x))


def test_tensors_are_taken_out_and_put_back() -> None:
    original = {"w": torch.ones(2), "name": "net", "parts": (torch.zeros(1), 3, None)}
    tensors, skeleton = tree.take_tensors(original)
    assert [x.shape for x in tensors] == [(2,), (1,)]
    again = skeleton.fill(tensors)
    assert again["name"] == "net"
    assert again["parts"][1:] == (3, None)
    assert again["w"] is original["w"]
    assert skeleton.pick({"w": 1, "name": 2, "parts": (3, 4, 5)}) == [1, 3]
    assert skeleton.fill_only([1, 2], other=0) == {"w": 1, "name": 0, "parts": (2, 0, 0)}


def test_missing_cotangents() -> None:
    one = torch.ones(1)
    assert tree.merge([None, one, None], [one, one, None]) == [one, 2 * one, None]
    assert tree.paths(one) == ["."]
    with pytest.raises(ValueError, match="zip"):
        tree.dot([one], [one, one])
