import re
from math import inf, nan, pi

import pytest
import torch

from metafunc.data import Curves, Sinusoids


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes(dtype):
    tasks = Sinusoids(shots=4, queries=7, dtype=dtype).sample(3, seeded())
    assert list(tasks) == ["support", "query"]
    for part, points in (("support", 4), ("query", 7)):
        for values in tasks[part]:
            assert values.shape == (3, points, 1)
            assert values.dtype == dtype


def test_the_defaults_are_those_of_the_paper():
    family = Sinusoids()
    assert (family.shots, family.amplitude, family.phase, family.inputs) == (
        10,
        (0.1, 5.0),
        (0.0, pi),
        (-5.0, 5.0),
    )


def test_y_is_exactly_the_curve_that_curves_tells():
    family = Sinusoids(dtype=torch.float64)
    amplitude, phase = family.curves(50, seeded())
    assert amplitude.shape == phase.shape == (50,)
    for x, y in family.sample(50, seeded()).values():
        assert torch.equal(y, amplitude[:, None, None] * (x + phase[:, None, None]).sin())


def test_curves_at_by_hand():
    curves = Curves(torch.tensor([2.0, 3.0]).double(), torch.tensor([0.0, pi / 2]).double())
    x = torch.tensor([[[pi / 2], [pi / 6]], [[0.0], [pi]]]).double()
    torch.testing.assert_close(curves.at(x), torch.tensor([[[2.0], [1.0]], [[3.0], [-3.0]]]).double())


@pytest.mark.parametrize(
    "family", [Sinusoids(), Sinusoids(amplitude=(1.0, 2.0), phase=(-1.0, 0.5), inputs=(0.0, 3.0))], ids=repr
)
def test_amplitude_phase_and_inputs_fill_their_ranges_evenly(family):
    amplitude, phase = family.curves(4000, seeded())
    x, _ = family.sample(4000, seeded())["support"]
    drawn = ((amplitude, family.amplitude), (phase, family.phase), (x[:, 0, 0], family.inputs))
    for values, (low, high) in drawn:
        unit = (values.double() - low) / (high - low)
        assert -1e-6 <= unit.min() < 0.005
        assert 0.995 < unit.max() <= 1 + 1e-6
        # Kolmogorov and Smirnov: 1.95 / sqrt(n) is passed by 0.1 % of uniform samples.
        steps = torch.arange(4000) / 4000
        assert (unit.sort().values - steps).abs().max() < 1.95 / 4000**0.5


def test_amplitude_phase_and_inputs_are_independent():
    family = Sinusoids()
    curves = family.curves(4000, seeded())
    tasks = family.sample(4000, seeded())
    columns = [curves.amplitude, curves.phase, tasks["support"][0][:, 0, 0], tasks["query"][0][:, 0, 0]]
    correlation = torch.corrcoef(torch.stack(columns)) - torch.eye(4)
    # Each entry has a standard deviation of 1 / sqrt(4000) = 0.016.
    assert correlation.abs().max() < 0.06


def test_a_single_value_is_a_range_too():
    family = Sinusoids(amplitude=(2.0, 2.0), phase=(0.0, 0.0))
    x, y = family.sample(3, seeded())["query"]
    assert torch.equal(y, 2 * x.sin())


def test_the_tasks_are_the_same_ones_in_each_dtype():
    rough = Sinusoids().sample(20, seeded())
    fine = Sinusoids(dtype=torch.float64).sample(20, seeded())
    for part in ("support", "query"):
        assert torch.equal(rough[part][0], fine[part][0].float())
        torch.testing.assert_close(rough[part][1], fine[part][1].float(), rtol=0, atol=5e-6)


def test_the_state_of_the_generator_fixes_the_tasks_and_resumes_a_run():
    family, generator = Sinusoids(), seeded()
    first = family.sample(5, generator)["support"][0]
    state = generator.get_state()
    second = family.sample(5, generator)["support"][0]
    resumed = torch.Generator()
    resumed.set_state(state)
    assert torch.equal(first, family.sample(5, seeded())["support"][0])
    assert torch.equal(second, family.sample(5, resumed)["support"][0])
    assert not torch.equal(first, second)


def test_the_default_dtype_of_torch_changes_nothing():
    tasks = []
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        tasks.append(Sinusoids().sample(3, seeded()))
    for part in ("support", "query"):
        assert all(torch.equal(a, b) for a, b in zip(tasks[0][part], tasks[1][part], strict=True))


def test_no_other_chance_is_used_or_changed():
    before = torch.get_rng_state()
    Sinusoids().sample(3, seeded())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cpu_generator_gives_the_same_tasks_on_a_gpu():
    here, there = (Sinusoids(device=device).sample(5, seeded()) for device in ("cpu", "cuda"))
    assert there["support"][0].device.type == there["query"][1].device.type == "cuda"
    assert torch.equal(here["support"][0], there["support"][0].cpu())
    torch.testing.assert_close(here["query"][1], there["query"][1].cpu(), rtol=1e-5, atol=1e-5)


COUNT = "expected an integer of at least 1, got"
RANGE = "expected a range (low, high) with low <= high, got"
WRONG = {
    "shots": (lambda: Sinusoids(shots=0), f"shots: {COUNT} 0. Give shots such a value, e.g. shots=5."),
    "queries": (
        lambda: Sinusoids(queries=-2),
        f"queries: {COUNT} -2. Give queries such a value, e.g. queries=5.",
    ),
    "dtype": (
        lambda: Sinusoids(dtype=torch.int32),
        "dtype: expected a floating-point dtype, got torch.int32. Give torch.float32 or torch.float64, say.",
    ),
    "amplitude": (
        lambda: Sinusoids(amplitude=(5.0, 0.1)),
        f"amplitude: {RANGE} (5.0, 0.1). Give the ends in order.",
    ),
    "phase": (
        lambda: Sinusoids(phase=(0.0, nan)),
        "phase[1]: expected a finite number, got nan. Give phase[1] such a value, e.g. phase[1]=5.0.",
    ),
    "inputs": (
        lambda: Sinusoids(inputs=(0.0, inf)),
        "inputs[1]: expected a finite number, got inf. Give inputs[1] such a value, e.g. inputs[1]=5.0.",
    ),
    "three ends": (
        lambda: Sinusoids(inputs=(0.0, 1.0, 2.0)),  # type: ignore[arg-type]
        "inputs: expected a pair of numbers, got tuple (0.0, 1.0, 2.0). Give inputs such a value, e.g. inputs=(0.1, 5.0).",
    ),
    "tasks": (
        lambda: Sinusoids().sample(0, seeded()),
        f"tasks: {COUNT} 0. Give tasks such a value, e.g. tasks=5.",
    ),
    "tasks of curves": (
        lambda: Sinusoids().curves(1.5, seeded()),  # type: ignore[arg-type]
        f"tasks: {COUNT} float 1.5. Give tasks such a value, e.g. tasks=5.",
    ),
    "generator": (
        lambda: Sinusoids().sample(1, None),  # type: ignore[arg-type]
        "generator: expected a torch.Generator, got NoneType. Pass torch.Generator().manual_seed(0), say.",
    ),
}


@pytest.mark.parametrize(("make", "text"), WRONG.values(), ids=WRONG)
def test_errors_say_what_to_do(make, text):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(text)}$"):
        make()
