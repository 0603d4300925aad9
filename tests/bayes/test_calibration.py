import re

import pytest
import torch

from metafunc import bayes


def answers(confidences, right):
    """Logits of one sample over two classes with these confidences, and labels that make them right or wrong."""
    p = torch.tensor(confidences)
    logits = torch.stack([p.log(), (1 - p).log()], -1)[None]
    return logits, torch.tensor([0 if good else 1 for good in right])


FOUR = answers([0.9, 0.9, 0.9, 0.9, 0.6, 0.6], [True, True, True, False, True, False])
"""Confidence 0.9 with accuracy 3/4, and 0.6 with 1/2."""


def test_the_errors_are_what_they_are_by_hand():
    found = bayes.calibration(*FOUR, bins=10)
    assert found.accuracy.item() == pytest.approx(4 / 6)
    assert found.ece.item() == pytest.approx(4 / 6 * 0.15 + 2 / 6 * 0.1)
    assert found.mce.item() == pytest.approx(0.15)
    wanted = -torch.tensor([0.9, 0.9, 0.9, 0.1, 0.6, 0.4]).log().mean()
    assert found.nll.item() == pytest.approx(wanted.item())


def test_axes_of_tasks_are_pooled():
    outputs, labels = torch.randn(3, 4, 5, 6), torch.randint(6, (4, 5))
    found, flat = (
        bayes.calibration(outputs, labels),
        bayes.calibration(outputs.flatten(1, 2), labels.flatten()),
    )
    assert all(torch.equal(a, b) for a, b in zip(found, flat, strict=True))


def test_the_diagram_has_the_same_error():
    outputs, labels = 2 * torch.randn(3, 500, 4), torch.randint(4, (500,))
    diagram, scores = bayes.reliability(outputs, labels), bayes.calibration(outputs, labels)
    gaps = (diagram.confidence - diagram.accuracy).abs().nan_to_num(0)
    assert (gaps * diagram.share).sum().item() == pytest.approx(scores.ece.item(), rel=1e-6)
    assert gaps.max().item() == pytest.approx(scores.mce.item(), rel=1e-6)
    assert diagram.share.sum().item() == pytest.approx(1)


def test_empty_bins_are_no_numbers():
    diagram = bayes.reliability(*FOUR, bins=10)
    filled = diagram.share > 0  # an end of a bin may round to either side
    assert diagram.share[filled].tolist() == pytest.approx([2 / 6, 4 / 6])
    assert diagram.accuracy[filled].tolist() == pytest.approx([1 / 2, 3 / 4])
    assert diagram.accuracy[~filled].isnan().all()


def test_a_wrong_answer_costs_what_it_costs():
    """Exactly, where its probability is far below the smallest number of its dtype."""
    for dtype, gap in ((torch.float64, 1e9), (torch.float32, 500.0), (torch.float16, 30.0)):
        found = bayes.calibration(torch.tensor([[[0.0, -gap]]], dtype=dtype), torch.tensor([1]))
        assert found.nll.item() == pytest.approx(gap)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_counts_every_answer(dtype):
    outputs, labels = torch.randn(1, 6000, 2), torch.randint(2, (6000,))
    half = outputs.to(dtype)
    for figures in (bayes.calibration, bayes.reliability):
        found, whole = figures(half, labels), figures(half.double(), labels)
        for a, b in zip(found, whole, strict=True):
            assert torch.equal(a.nan_to_num(), b.nan_to_num())
    assert bayes.calibration(half, labels).accuracy.item() == pytest.approx(0.5, abs=0.05)


def test_a_confidence_of_one_belongs_to_the_last_bin():
    """Sure answers of which half are wrong, and answers of 0.95 that are all right."""
    sure = torch.tensor([[0.0, -1e9]] * 4 + [[0.95, 0.05]] * 4)
    sure[4:] = sure[4:].log()
    labels = torch.tensor([0, 1, 0, 1, 0, 0, 0, 0])
    diagram, scores = bayes.reliability(sure[None], labels, 10), bayes.calibration(sure[None], labels, 10)
    assert diagram.share[-1] == 1
    assert diagram.confidence[-1].item() == pytest.approx(0.975)
    assert scores.ece.item() == scores.mce.item() == pytest.approx(0.975 - 0.75)


def test_the_errors_are_those_of_torchmetrics():
    classification = pytest.importorskip("torchmetrics.functional.classification")
    outputs, labels = 2 * torch.randn(1, 500, 4), torch.randint(4, (500,))
    probs, found = outputs[0].softmax(-1), bayes.calibration(outputs, labels, 12)
    for norm, ours in (("l1", found.ece), ("max", found.mce)):
        theirs = classification.multiclass_calibration_error(probs, labels, 4, n_bins=12, norm=norm)
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_one_task_has_no_interval():
    outputs, labels = torch.randn(2, 1, 5, 3), torch.randint(3, (1, 5))
    assert all(x.isnan() for x in bayes.calibration_intervals(outputs, labels))


@pytest.mark.parametrize("figures", [bayes.calibration, bayes.reliability])
@pytest.mark.parametrize(
    ("labels", "got"), [([0, -100, 1, 1], "labels -100"), ([0, 7, 2, 1], "labels 2, 7"), ([], "none")]
)
def test_labels_that_are_no_classes(figures, labels, got):
    text = f"labels: expected at least one, each in 0..1 for 2 classes, got {got}. Take out the answers"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        figures(torch.zeros(1, len(labels), 2), torch.tensor(labels, dtype=torch.int64))


def test_the_interval_of_the_accuracy_is_that_of_the_mean_over_tasks():
    torch.manual_seed(0)
    # Tasks of very different difficulty, whose answers are far from independent.
    right = torch.rand(300, 1) > torch.rand(300, 20) ** 3
    outputs, labels = torch.zeros(2, 300, 20, 2), right.long()
    outputs[..., 1] = 1.0
    half = bayes.calibration_intervals(outputs, labels, resamples=1000).accuracy.item()
    shares = right.double().mean(1)
    assert half == pytest.approx(1.96 * shares.std().item() / 300**0.5, rel=0.1)
    assert half > 1.5 * 1.96 * (shares.mean() * (1 - shares.mean()) / 6000).sqrt().item()


def test_intervals_are_those_of_resampled_tasks_and_repeat_with_the_seed():
    outputs, labels = torch.randn(2, 8, 5, 3), torch.randint(3, (8, 5))
    first, again, other = (
        bayes.calibration_intervals(outputs, labels, 7, resamples=10, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again != other
    draws = torch.Generator().manual_seed(0)
    chosen = [torch.randint(8, (8,), generator=draws) for _ in range(10)]
    found = torch.tensor([[f.item() for f in bayes.calibration(outputs[:, i], labels[i], 7)] for i in chosen])
    low, high = (found.quantile(q, 0) for q in (0.025, 0.975))
    assert torch.stack(first).tolist() == pytest.approx(((high - low) / 2).tolist())
    same = bayes.calibration_intervals(
        outputs[:, :1].expand(2, 8, 5, 3), labels[:1].expand(8, 5), resamples=5
    )
    assert torch.stack(same).abs().max() < 1e-12


def test_nan_in_a_sample_is_refused():
    outputs = torch.zeros(3, 4, 2)
    outputs[1, 2, 0] = torch.nan
    text = (
        "outputs: expected finite outputs of every sample, got 1 of 3 samples with NaN or infinity. "
        "The posterior is too wide or has diverged: lower the inner lr or the prior's variance."
    )
    with pytest.raises(FloatingPointError, match=f"^{re.escape(text)}$"):
        bayes.calibration(outputs, torch.zeros(4, dtype=torch.int64))


WRONG = {
    "resamples": (
        lambda: bayes.calibration_intervals(torch.zeros(1, 2, 2), torch.zeros(2).long(), resamples=1),
        "resamples: expected an integer of at least 2, got 1. Give resamples such a value, e.g. resamples=200.",
    ),
    "labels": (
        lambda: bayes.calibration(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)),
        (
            "outputs, targets: expected logits [samples, ..., classes] and integer labels [...], got float64[4, 2] "
            "on cpu and int64[4] on cpu. Pass what mf.bayes.predict returned, samples first."
        ),
    ),
    "bins": (
        lambda: bayes.calibration(*FOUR, bins=0),
        "bins: expected an integer of at least 1, got 0. Give bins such a value, e.g. bins=15.",
    ),
}


@pytest.mark.parametrize(("make", "text"), WRONG.values(), ids=WRONG)
def test_errors_say_what_to_do(make, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        make()
