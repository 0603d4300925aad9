"""Typed derivatives on trees, and the work-arounds for torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap

from metafunc import autodiff
from tests.tasks import close


def test_vjp_leaves_integers_alone_and_serves_many_products() -> None:
    def fn(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        return (params["w"] * data[0] ** 2)[data[1]]

    args = {"w": torch.tensor([1.0, 2.0])}, (torch.tensor([3.0, 4.0]), torch.tensor([1, 0, 1]))
    out, pull = autodiff.vjp(fn, *args)
    assert out.tolist() == [32.0, 9.0, 32.0]
    for scale in (1.0, 2.0):
        params, data = pull(scale * torch.ones(3))
        assert params["w"].tolist() == [9 * scale, 32 * scale]
        assert data[0].tolist() == [6 * scale, 2 * 2 * 2 * 4 * scale]
        assert data[1] is None
    _, pull = autodiff.vjp(fn, *args, needs=({"w": False}, (True, True)))
    assert pull(torch.ones(3))[0] == {"w": None}


def test_jvp_takes_missing_tangents_as_zero() -> None:
    out, dot = autodiff.jvp(
        lambda x, y: x * y, (torch.tensor(2.0), torch.tensor(3.0)), (None, torch.tensor(1.0))
    )
    assert (out, dot) == (6.0, 2.0)
    assert autodiff.jvp(torch.sin, (torch.tensor(2.0),), (None,))[1] == 0


LSTM = nn.LSTM(3, 3)
TARGET = torch.ones(4, 3)
UNBATCHED = ("lstm", "soft_margin_loss")  # torch cannot batch these, or says that it is slow
OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "mse_loss": lambda x: F.mse_loss(x, TARGET.to(x.dtype)),
    "huber_loss": lambda x: F.huber_loss(x, TARGET.to(x.dtype)),
    "soft_margin_loss": lambda x: F.soft_margin_loss(x, TARGET.to(x.dtype)),
    "lstm": lambda x: LSTM(x[:, None].float())[0].pow(2).sum().to(x.dtype),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("mapped", [False, True])
def test_jvp_of_a_gradient_where_torch_has_no_rule(name: str, mapped: bool) -> None:
    """The product of a symmetric matrix, so reverse mode must give the same."""
    fn = OPERATORS[name]
    x, w = torch.randn(4, 3), torch.randn(4, 3)

    def push(x: Tensor, w: Tensor) -> Tensor:
        return autodiff.jvp(grad(fn), (x,), (w,))[1]

    found = vmap(push)(x[None], w[None])[0] if mapped and name not in UNBATCHED else push(x, w)
    close(found, torch.func.vjp(grad(fn), x)[1](w)[0], 1e-6)


def test_other_errors_pass_through_jvp() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("of the user's own")

    with pytest.raises(RuntimeError, match="of the user's own"):
        autodiff.jvp(broken, (torch.ones(1),), (torch.ones(1),))


def test_where_plain_autodiff_is_right() -> None:
    seen: list[bool] = []

    def fn(x: Tensor) -> Tensor:
        seen.append(autodiff.plain_is_right(x))
        return (x**2).sum()

    x = torch.ones(2, 3)
    fn(x)
    vmap(grad(fn))(x)
    grad(lambda x: vmap(fn)(x).sum())(x)
    vmap(fn)(x.clone().requires_grad_())
    with torch.no_grad():
        vmap(fn)(x.clone().requires_grad_())
    torch.func.jvp(fn, (x,), (x,))
    vmap(grad(lambda x: vmap(fn)(x).sum()))(x)
    assert seen == [True, True, False, False, True, False, False]


def test_what_is_differentiated() -> None:
    seen: list[tuple[bool, bool]] = []
    x, y = torch.ones(2), torch.ones(2)

    def fn(x: Tensor) -> Tensor:
        seen.append((autodiff.is_differentiated(x), autodiff.is_differentiated(y)))
        return x.sum()

    fn(x)
    grad(fn)(x)
    grad(lambda x: vmap(fn)(x[None]).sum())(x)
    fn(x.clone().requires_grad_())
    assert seen == [(False, False), (True, False), (True, False), (True, False)]
    assert not autodiff.is_differentiated(3)


@pytest.mark.parametrize("dims", [(0, 0), (0, 1), (1, 0), (2, 1), (1, 1), (2, 0)], ids=str)
def test_a_trial_sees_the_first_example_as_plain_tensors(dims: tuple[int, int]) -> None:
    outer, inner = dims
    seen: list[Tensor] = []

    def look(x: Tensor) -> Tensor:
        with autodiff.trial(x) as plain:
            seen.append(plain)
            assert not plain.requires_grad
            assert torch.func.grad(lambda y: (y**2).sum())(plain).shape == plain.shape
        return x.sum()

    def around(x: Tensor) -> Tensor:
        return vmap(torch.func.grad(look), in_dims=inner)(x)

    x = torch.arange(24.0).reshape(2, 3, 4)
    expected = x.select(outer, 0).select(inner, 0)
    vmap(around, in_dims=outer)(x)
    torch.func.jvp(vmap(around, in_dims=outer), (x,), (x,))
    assert len(seen) == 2
    for plain in seen:
        assert torch.equal(plain, expected)


def test_a_trial_gives_random_numbers_back() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with autodiff.trial(torch.ones(1)):
        torch.rand(5)
    assert torch.equal(torch.rand(2), expected)
