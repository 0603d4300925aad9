import pytest
import torch

from metafunc import bayes
from tests.bayes.test_learner import build, tasks_of_sinusoids


def test_answers_are_the_predictions_for_the_drawn_tasks():
    learner, sampler = build(test_samples=4), tasks_of_sinusoids()
    outputs, targets = bayes.answers(learner, sampler, 5, batch=3, seed=7)
    draws = torch.Generator().manual_seed(7)
    parts = [sampler.sample(size, draws) for size in (3, 2)]
    assert outputs.shape == (4, 5, 6, 1)
    for tasks, own, right in zip(parts, outputs.split([3, 2], 1), targets.split([3, 2]), strict=True):
        assert torch.equal(own, learner.predict(tasks).transpose(0, 1))
        assert torch.equal(right, tasks["query"][1])


@pytest.mark.parametrize("name", ["count", "batch"])
def test_numbers_of_tasks_are_whole_and_positive(name):
    with pytest.raises(
        ValueError,
        match=f"^{name}: expected an integer of at least 1, got 0. Give {name} such a value, e.g. {name}=5.$",
    ):
        bayes.answers(build(), tasks_of_sinusoids(), **{"count": 2, "batch": 2, name: 0})
