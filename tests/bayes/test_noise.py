import re

import pytest
import torch

from metafunc import bayes
from metafunc.bayes.noise import check_noise

PARAMS = {"w": torch.zeros(3, 2, dtype=torch.float64), "b": torch.zeros(4, dtype=torch.float32)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_shapes_dtypes_and_the_generator():
    noise = bayes.noise(PARAMS, 5, seeded(), tasks=2)
    assert {n: (x.shape, x.dtype) for n, x in noise.items()} == {
        "w": ((2, 5, 3, 2), torch.float64),
        "b": ((2, 5, 4), torch.float32),
    }
    again, other = bayes.noise(PARAMS, 5, seeded(), tasks=2), bayes.noise(PARAMS, 5, seeded(1), tasks=2)
    assert all(torch.equal(noise[n], again[n]) and not torch.equal(noise[n], other[n]) for n in PARAMS)
    assert bayes.noise(PARAMS, 5, seeded())["w"].shape == (5, 3, 2)


def test_torch_s_own_chance_is_left_alone():
    before = torch.get_rng_state()
    bayes.noise(PARAMS, 3, seeded())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("tasks", [None, 3])
def test_antithetic_samples_mirror_each_other(tasks):
    noise = bayes.noise(PARAMS, 6, seeded(), tasks=tasks, antithetic=True)["w"].movedim(
        0 if tasks is None else 1, 0
    )
    assert len(noise) == 6
    assert torch.equal(noise[:3], -noise[3:])


def test_the_numbers_are_standard_normal():
    noise = bayes.noise(torch.zeros(20_000), 2, seeded())
    assert noise.mean().abs() < 0.02
    assert (noise.var() - 1).abs() < 0.03
    assert ((noise.abs() < 1).double().mean() - 0.6827).abs() < 0.01


def test_samples_are_means_plus_deviations_times_noise():
    posterior = {"mean": torch.tensor([1.0, 2.0]), "log_variance": torch.tensor([4.0, 9.0]).log()}
    found = bayes.sample(posterior, torch.tensor([[1.0, 1.0], [-1.0, 0.0]]))
    assert torch.allclose(found, torch.tensor([[3.0, 5.0], [-1.0, 2.0]]))


COUNT = "expected an integer of at least 1, got"
DRAW = "Draw it with mf.bayes.noise(params, samples, generator), and pass it as the last data argument."
WRONG = {
    "samples": (
        lambda: bayes.noise(PARAMS, 0, seeded()),
        ValueError,
        f"samples: {COUNT} 0. Give samples such a value, e.g. samples=4.",
    ),
    "tasks": (
        lambda: bayes.noise(PARAMS, 1, seeded(), tasks=0),
        ValueError,
        "tasks: expected None or an integer of at least 1, got 0. Give tasks such a value, e.g. tasks=4, or leave it out.",
    ),
    "generator": (
        lambda: bayes.noise(PARAMS, 1, 0),
        TypeError,
        "generator: expected a torch.Generator, such as torch.Generator().manual_seed(0), got int 0. Give generator one of these.",
    ),
    "odd": (
        lambda: bayes.noise(PARAMS, 3, seeded(), antithetic=True),
        ValueError,
        "samples: expected an even number of antithetic samples, got 3. Ask for 4, or leave antithetic=True out.",
    ),
    "nothing": (
        lambda: bayes.noise({}, 3, seeded()),
        ValueError,
        "params: expected a tree with at least one tensor",
    ),
    "uneven": (
        lambda: check_noise([torch.zeros(2), torch.zeros(2)], [torch.zeros(3, 2), torch.zeros(4, 2)]),
        ValueError,
        f"noise at [1]: expected a floating-point tensor [samples, 2] with at least one sample, got float64[4, 2] on cpu. {DRAW}",
    ),
    "another tree": (lambda: check_noise(PARAMS, {"w": torch.zeros(1)}), ValueError, "noise at .: expected"),
}


@pytest.mark.parametrize(("make", "kind", "text"), WRONG.values(), ids=WRONG)
def test_errors_say_what_to_do(make, kind, text):
    with pytest.raises(kind, match=f"^{re.escape(text)}"):
        make()
