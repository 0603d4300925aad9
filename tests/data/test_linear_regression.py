import re
from math import inf

import pytest
import torch

from metafunc.data import LinearRegression, Sampler

FAMILIES = {
    "imaml": (LinearRegression.imaml(), 50, 50.0, 100, 100),
    "ibaml": (LinearRegression.ibaml(), 32, 400.0, 32, 64),
    "small": (LinearRegression(3, 7.0, 2.0, shots=5, queries=4), 3, 7.0, 5, 4),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def in_float64(family: LinearRegression, **options) -> LinearRegression:
    kept = {"dimension": family.dimension, "condition": family.condition, "largest": family.largest}
    kept |= {"noise": family.noise, "shots": family.shots, "queries": family.queries, "spread": family.spread}
    return LinearRegression(**(kept | options), dtype=torch.float64)


@pytest.mark.parametrize(
    ("family", "dimension", "condition", "shots", "queries"), FAMILIES.values(), ids=FAMILIES
)
def test_shapes_and_the_eigenvalues_of_every_hessian(family, dimension, condition, shots, queries):
    tasks = in_float64(family).sample(3, seeded())
    for part, n in (("support", shots), ("query", queries)):
        x, y = tasks[part]
        assert (x.shape, y.shape) == ((3, n, dimension), (3, n))
        spectrum = torch.linalg.eigvalsh(x.mT @ x / n)
        wanted = torch.linspace(family.largest / condition, family.largest, dimension)
        torch.testing.assert_close(spectrum, wanted.expand(3, -1), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(
        tasks["support"][0][:, :shots].mT @ tasks["support"][0], tasks["query"][0].mT @ tasks["query"][0]
    )


def test_the_loss_has_that_hessian():
    tasks = in_float64(FAMILIES["small"][0]).sample(1, seeded())
    x, y = (part[0] for part in tasks["support"])
    hessian = torch.func.hessian(LinearRegression.loss)(torch.zeros(3), (x, y))
    torch.testing.assert_close(hessian, x.T @ x / 5)
    by_hand = sum(float(x[i] @ torch.ones(3) - y[i]) ** 2 for i in range(5)) / 10
    assert float(LinearRegression.loss(torch.ones(3), (x, y))) == pytest.approx(by_hand)


def test_y_is_the_model_of_the_true_weights():
    family = in_float64(FAMILIES["small"][0], noise=0.0, spread=3.0)
    weights = family.weights(4, seeded())
    for x, y in family.sample(4, seeded()).values():
        torch.testing.assert_close(y, torch.einsum("tnd,td->tn", x, weights), rtol=1e-12, atol=1e-12)


def test_noise_and_spread_are_standard_deviations():
    family = LinearRegression(2, 3.0, noise=0.5, spread=2.0, shots=3, queries=3, dtype=torch.float64)
    weights = family.weights(20_000, seeded())
    x, y = family.sample(20_000, seeded())["query"]
    rest = y - torch.einsum("tnd,td->tn", x, weights)
    # Each deviation is known to 1 / sqrt(2 n): 0.4 % of itself, or less; four times that.
    assert float(weights.std()) == pytest.approx(2.0, rel=0.015)
    assert float(rest.std()) == pytest.approx(0.5, rel=0.015)


def test_directions_are_uniform():
    """The mean of the Hessians is a multiple of the identity."""
    x, _ = LinearRegression(3, 100.0, shots=3, queries=3, dtype=torch.float64).sample(20_000, seeded())[
        "support"
    ]
    mean = (x.mT @ x / 3).mean(0)
    torch.testing.assert_close(mean, torch.eye(3) * (1 + 0.505 + 0.01) / 3, rtol=0, atol=0.015)
    assert x.mean(0).abs().max() < 0.03


def test_the_state_of_the_generator_fixes_the_tasks_in_each_dtype():
    rough = LinearRegression().sample(2, seeded())["query"]
    fine = LinearRegression(dtype=torch.float64).sample(2, seeded())["query"]
    assert all(torch.equal(a, b.float()) for a, b in zip(rough, fine, strict=True))
    assert not torch.equal(rough[0], LinearRegression().sample(2, seeded(1))["query"][0])


def test_it_is_a_sampler():
    family: Sampler = LinearRegression()
    assert list(family.sample(1, seeded())) == ["support", "query"]


LEAST = "expected a number of at least"
WRONG = {
    "condition": (
        lambda: LinearRegression(condition=0.5),
        f"condition: {LEAST} 1, got 0.5. Give condition such a value, e.g. condition=50.0.",
    ),
    "noise": (
        lambda: LinearRegression(noise=-0.1),
        f"noise: {LEAST} 0, got -0.1. Give noise such a value, e.g. noise=0.1.",
    ),
    "spread": (
        lambda: LinearRegression(spread=inf),
        f"spread: {LEAST} 0, got inf. Give spread such a value, e.g. spread=1.0.",
    ),
    "largest": (
        lambda: LinearRegression(largest=0.0),
        "largest: expected a positive number, got 0.0. Give largest such a value, e.g. largest=1.0.",
    ),
    "queries": (
        lambda: LinearRegression(queries=49),
        (
            "queries: expected at least dimension=50, since fewer points make a singular Hessian, got 49. "
            "Give more queries, or a lower dimension."
        ),
    ),
    "dtype": (
        lambda: LinearRegression(dtype=torch.int32),
        "dtype: expected a floating-point dtype, got torch.int32. Give torch.float32 or torch.float64, say.",
    ),
    "tasks": (
        lambda: LinearRegression().weights(0, seeded()),
        "tasks: expected an integer of at least 1, got 0. Give tasks such a value, e.g. tasks=5.",
    ),
    "generator": (
        lambda: LinearRegression().sample(1, None),  # type: ignore[arg-type]
        "generator: expected a torch.Generator, got NoneType. Pass torch.Generator().manual_seed(0), say.",
    ),
}


@pytest.mark.parametrize(("make", "text"), WRONG.values(), ids=WRONG)
def test_errors_say_what_to_do(make, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        make()
