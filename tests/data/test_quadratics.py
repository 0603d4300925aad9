import re
from math import nan

import pytest
import torch

from metafunc.data import Quadratics


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def family(**options) -> Quadratics:
    return Quadratics(**({"dimension": 4, "eigenvalues": (0.5, 2.0), "dtype": torch.float64} | options))


def test_hessians_are_independent_with_the_spectrum_at_a_spread_of_1():
    a, b = family().sample(5, seeded())["support"]
    assert (a.shape, b.shape) == ((5, 4, 4), (5, 4))
    torch.testing.assert_close(a, a.mT)
    torch.testing.assert_close(torch.linalg.eigvalsh(a), torch.tensor([0.5, 1.0, 1.5, 2.0]).expand(5, -1))
    assert (a[0] - a[1]).abs().max() > 0.1


def test_one_hessian_at_a_spread_of_0_and_the_same_in_every_batch():
    for seed in (0, 1):
        a, _ = family(spread=0.0).sample(3, seeded(seed))["query"]
        assert torch.equal(a, torch.tensor([0.5, 1.0, 1.5, 2.0]).diag().expand(3, -1, -1))


def test_between_the_two_hessians_differ_in_proportion_and_stay_within_the_ends():
    whole, half = (family(spread=s).sample(50, seeded())["support"][0] for s in (1.0, 0.5))
    shared = torch.tensor([0.5, 1.0, 1.5, 2.0]).diag()
    torch.testing.assert_close(half - shared, (whole - shared) / 2)
    spectrum = torch.linalg.eigvalsh(half)
    assert 0.5 <= spectrum.min() < spectrum.max() <= 2.0


def test_minimum_is_where_the_gradient_vanishes_and_scatters():
    batch = family(scatter=3.0).sample(20_000, seeded())["support"]
    found = Quadratics.minimum(batch)
    assert float(found.std()) == pytest.approx(3.0, rel=0.015)
    assert found.mean(0).abs().max() < 0.1
    gradients = torch.func.vmap(torch.func.grad(Quadratics.loss))(found, batch)
    assert gradients.abs().max() < 1e-12


def test_loss_by_hand():
    a, b = torch.tensor([[2.0, 1.0], [1.0, 4.0]]), torch.tensor([3.0, -1.0])
    assert float(Quadratics.loss(torch.tensor([1.0, 2.0]), (a, b))) == 0.5 * (2 + 2 + 2 + 16) - (3 - 2)


def test_noise_is_the_length_of_the_error_of_a_gradient():
    quiet, loud = (family(noise=noise).sample(20_000, seeded()) for noise in (0.0, 0.6))
    errors = [loud[part][1] - quiet[part][1] for part in ("support", "query")]
    for error in errors:
        assert float(error.square().sum(1).mean()) == pytest.approx(0.36, rel=0.02)
    assert abs(float((errors[0] * errors[1]).mean())) < 0.003
    assert torch.equal(quiet["support"][1], quiet["query"][1])


def test_first_order_maml_is_unbiased_only_where_hessians_agree():
    """One step: the exact meta-gradient has (I - lr A) in front, the first-order one does not."""
    lr, w = 0.3, torch.ones(4)
    for spread, equal in ((0.0, True), (1.0, False)):
        a, b = family(spread=spread).sample(2000, seeded())["support"]
        slope = torch.einsum("tij,j->ti", a, w) - b
        after = slope - lr * torch.einsum("tij,tj->ti", a, slope)
        exact = (after - lr * torch.einsum("tij,tj->ti", a, after)).mean(0)
        first = after.mean(0)
        # Where all Hessians are one, both vanish at the same point: a fixed matrix apart.
        matrix = torch.eye(4) - lr * a.mean(0)
        assert torch.allclose(matrix @ first, exact, atol=1e-12) == equal


def test_the_state_of_the_generator_fixes_the_tasks_in_each_dtype():
    rough, fine = (
        Quadratics().sample(2, seeded())["query"],
        Quadratics(dtype=torch.float64).sample(2, seeded()),
    )
    assert all(torch.equal(r, f.float()) for r, f in zip(rough, fine["query"], strict=True))


ENDS = "eigenvalues: expected (low, high) with 0 < low <= high, got"
WRONG = {
    "order of the ends": (
        lambda: Quadratics(eigenvalues=(2.0, 1.0)),
        f"{ENDS} (2.0, 1.0). Give the ends of the spectrum.",
    ),
    "an end at zero": (
        lambda: Quadratics(eigenvalues=(0.0, 1.0)),
        f"{ENDS} (0.0, 1.0). Give the ends of the spectrum.",
    ),
    "spread": (
        lambda: Quadratics(spread=1.5),
        "spread: expected a number in [0, 1], got 1.5. Give spread such a value, e.g. spread=1.0.",
    ),
    "noise": (
        lambda: Quadratics(noise=nan),
        "noise: expected a number of at least 0, got nan. Give noise such a value, e.g. noise=0.1.",
    ),
    "scatter": (
        lambda: Quadratics(scatter=-1.0),
        "scatter: expected a number of at least 0, got -1.0. Give scatter such a value, e.g. scatter=1.0.",
    ),
    "generator": (
        lambda: Quadratics().sample(1, None),  # type: ignore[arg-type]
        "generator: expected a torch.Generator, got NoneType. Pass torch.Generator().manual_seed(0), say.",
    ),
}


@pytest.mark.parametrize(("make", "text"), WRONG.values(), ids=WRONG)
def test_errors_say_what_to_do(make, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        make()
