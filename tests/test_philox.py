"""Philox against the known answers of its authors, and keys made from keys."""

from __future__ import annotations

import pytest
import torch
from torch.func import vmap

import metafunc as mf
from metafunc.philox import philox, uniform

# The test vectors of Random123, for philox4x32-10.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(int(word, 16)) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter: str, key: str, expected: str) -> None:
    assert philox(words(counter), words(key)) == words(expected)  # type: ignore[arg-type]


def test_numbers_are_a_function_of_key_draw_and_place() -> None:
    like, shape = torch.ones(1), torch.Size((3, 5))
    keys = torch.tensor([1, 2**40 + 1, -7])
    mapped = vmap(lambda key: uniform(key, 4, shape, like))(keys)
    for key, row in zip(keys, mapped, strict=True):
        assert torch.equal(row, uniform(key, 4, shape, like))
    assert len(mapped.unique()) == mapped.numel()
    assert torch.equal(
        uniform(keys[0], 1, torch.Size((2, 2)), like).flatten(), uniform(keys[0], 1, torch.Size((4,)), like)
    )
    assert uniform(keys[0], 1, torch.Size(()), like).shape == ()


def test_keys_made_from_keys() -> None:
    seen = [int(mf.fold_in(torch.tensor(k), n)) for k in (0, 1, 2**33, -1) for n in (*range(300), 2**35)]
    assert len(set(seen)) == len(seen)
    assert min(seen) >= 0
    key = torch.tensor(7)
    assert torch.equal(mf.fold_in(key, torch.tensor(3.0)), mf.fold_in(key, 3))
    assert torch.equal(mf.fold_in(key.to(torch.int32), 3), mf.fold_in(key, 3))
    assert torch.equal(
        vmap(lambda n: mf.fold_in(key, n))(torch.arange(4)),
        torch.stack([mf.fold_in(key, n) for n in range(4)]),
    )
    numbers = uniform(key, 0, torch.Size((64,)), torch.ones(1))
    assert not torch.isin(numbers, uniform(mf.fold_in(key, 0), 0, torch.Size((64,)), torch.ones(1))).any()
