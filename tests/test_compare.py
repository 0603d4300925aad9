from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import metafunc as mf
from metafunc.compare import Comparison, Row, compare
from tests.dense import Logistic, logistic
from tests.tasks import logistic_loss, options, tensors

ROUNDING = 1e-13


def on(task: Logistic, **given: Any) -> Comparison:
    inner = mf.gradient_descent(logistic_loss, **options(task))
    return compare(logistic_loss, inner, *tensors(task), repeats=1, **given)


def error(found: NDArray[Any], exact: NDArray[Any]) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def cosine(found: NDArray[Any], exact: NDArray[Any]) -> float:
    return float(found @ exact / np.linalg.norm(found) / np.linalg.norm(exact))


def test_the_errors_are_those_of_the_dense_oracle() -> None:
    task = logistic()
    exact, expected = task.explicit()[0], [task.v, task.truncated(2)[0], task.binomial(2)[0]]
    assert all(0.01 < error(e, exact) < 10 for e in expected)
    rows = on(task, estimators=[mf.FirstOrder(), mf.Truncated(2), mf.Binomial(2)]).rows
    assert [row.label for row in rows] == [
        "Explicit()",
        "FirstOrder()",
        "Truncated(depth=2)",
        "Binomial(order=2)",
    ]
    assert rows[0].error == 0 and rows[0].ratio == 1
    assert rows[0].cosine == pytest.approx(1, abs=ROUNDING)
    for row, e in zip(rows[1:], expected, strict=True):
        assert row.error == pytest.approx(error(e, exact), rel=1e-11)
        assert row.cosine == pytest.approx(cosine(e, exact), rel=1e-11)
        assert row.seconds > 0 and row.memory > 0 and row.refusal is None and not row.own_problem


def test_a_batch_of_tasks_is_compared_by_the_mean_gradient() -> None:
    tasks = [logistic(seed) for seed in range(3)]
    for task in tasks:
        task.theta = tasks[0].theta
    exact, first = (np.mean(g, axis=0) for g in ([t.explicit()[0] for t in tasks], [t.v for t in tasks]))
    theta, *_ = tensors(tasks[0])
    support, query = (
        tuple(torch.stack(x) for x in zip(*(tensors(t)[i] for t in tasks), strict=True)) for i in (1, 2)
    )
    inner = mf.gradient_descent(logistic_loss, **options(tasks[0]))
    found = compare(
        logistic_loss, inner, theta, support, query, estimators=[mf.FirstOrder()], tasks=mf.Vmap(), repeats=1
    )
    assert found.rows[1].error == pytest.approx(error(first, exact), rel=1e-11)


def test_every_leaf_of_theta_counts() -> None:
    scales = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.5])}
    start = {"a": torch.tensor([1.0, -1.0]), "b": torch.tensor([2.0])}
    lr, steps = 0.2, 3

    def loss(phi: Any, batch: Any) -> Any:
        return sum((0.5 * scales[k] * phi[k] ** 2).sum() for k in phi)

    def outer(phi: Any, query: Any) -> Any:
        return phi["a"].sum() + phi["b"].sum()

    inner = mf.gradient_descent(loss, lr=lr, steps=steps)
    row = compare(outer, inner, start, torch.zeros(1), torch.zeros(1), estimators=[mf.FirstOrder()]).rows[1]
    exact = (1 - lr * np.array([1.0, 2.0, 0.5])) ** steps
    assert row.error == pytest.approx(error(np.ones(3), exact), rel=1e-12)


def test_a_reference_that_is_zero() -> None:
    """There is no relative error then, and nothing is divided by zero."""
    inner = mf.gradient_descent(lambda phi, x: (phi**2).sum(), lr=0.1, steps=2)
    theta = torch.ones(2)
    found = compare(
        lambda phi, q: 0.0 * phi.sum(), inner, theta, theta, theta, estimators=[mf.FirstOrder()], repeats=1
    )
    assert np.isnan(found.rows[1].error)
    assert "FirstOrder(): no error, for the meta-gradient of the reference is zero" in str(found)
    assert "nan" not in str(found)


def test_an_estimator_of_the_solution_is_measured_against_the_path_of_its_own_problem() -> None:
    plain, proximal = logistic(), logistic(prox=0.5)
    own = mf.Implicit(mf.CG(max_steps=50))(mf.gradient_descent(logistic_loss, **options(proximal)))
    found = on(plain, estimators=[mf.FirstOrder(), own])
    expected = error(proximal.implicit(), proximal.explicit()[0])
    assert expected > 0.01 and abs(expected - error(proximal.implicit(), plain.explicit()[0])) > 0.01
    assert found.rows[2].error == pytest.approx(expected, rel=1e-6)
    assert [row.own_problem for row in found.rows] == [False, False, True]
    assert "Implicit(solver=CG(max_steps=50)) *" in str(found)
    assert "* on an inner problem of its own, measured against Explicit() on that one" in str(found)


def test_another_reference() -> None:
    task = logistic(prox=0.5)
    reference = mf.Implicit(mf.Direct())
    found = on(task, estimators=[mf.Explicit()], reference=reference)
    assert [row.label for row in found.rows] == [repr(reference), "Explicit()"]
    assert found.rows[1].error == pytest.approx(error(task.explicit()[0], task.implicit()), rel=1e-10)


def test_a_reference_among_the_estimators_stays_where_it_is() -> None:
    found = on(logistic(), estimators={"first": mf.FirstOrder(), "maml": mf.Explicit()})
    assert [row.label for row in found.rows] == ["first", "maml"]
    assert found.rows[1].error == 0


def test_a_refusal_is_a_row() -> None:
    found = on(logistic(), estimators=[mf.Implicit(), mf.Truncated(99), mf.FirstOrder()])
    _, free, long, first = found.rows
    assert (
        free.refusal is not None
        and "ZeroGradientError: Implicit()" in free.refusal
        and "prox" in free.refusal
    )
    assert long.refusal is not None and "at most the 5 steps" in long.refusal
    assert math.isnan(free.error) and math.isnan(free.seconds) and math.isnan(free.memory)
    assert first.refusal is None and first.error > 0
    assert f"Implicit(): {free.refusal}" in str(found).splitlines()


def test_a_refusal_at_the_call_is_a_row() -> None:
    theta = {"start": torch.ones(2), "lr": torch.tensor(0.1)}
    inner = mf.gradient_descent(
        lambda phi, batch: (phi * phi).sum(),
        lr=lambda theta: theta["lr"],
        init=lambda theta: theta["start"],
        steps=2,
    )
    found = compare(
        lambda phi, query: phi.sum(), inner, theta, torch.ones(1), torch.ones(1), estimators=[mf.FirstOrder()]
    )
    assert found.rows[1].refusal is not None and "zero gradient by construction" in found.rows[1].refusal


def test_where_the_reference_is_refused_there_is_time_but_no_error() -> None:
    task = logistic(prox=0.5)

    @mf.minimizes(lambda phi, theta, batch: logistic_loss(phi, batch) + 0.25 * ((phi - theta) ** 2).sum())
    def black_box(theta: Any, batch: Any) -> Any:
        return theta

    row = on(task, estimators=[mf.Implicit()(black_box)]).rows[1]
    assert (
        row.refusal is not None
        and "no error, for the reference was refused: TypeError: Explicit" in row.refusal
    )
    assert math.isnan(row.error) and math.isnan(row.ratio) and row.seconds > 0 and row.memory > 0
    with pytest.raises(TypeError, match="black-box solver"):
        compare(logistic_loss, black_box, *tensors(task), estimators=[mf.Implicit()])


def test_tensors_that_require_grad_are_measured_like_others() -> None:
    task = logistic()
    theta, support, query = tensors(task)
    inner = mf.gradient_descent(logistic_loss, **options(task))
    found = compare(
        logistic_loss, inner, theta.requires_grad_(), support, query, estimators=[mf.FirstOrder()], repeats=1
    )
    assert found.rows[1].error == pytest.approx(error(task.v, task.explicit()[0]), rel=1e-11)
    assert theta.grad is None


def test_an_outer_loss_with_theta_and_aux() -> None:
    theta, support, query = tensors(logistic())
    inner = mf.gradient_descent(logistic_loss, lr=0.3, steps=5)

    def outer(phi: Any, theta: Any, query: Any) -> Any:
        return logistic_loss(phi, query) + theta.sum(), 1

    found = compare(
        outer, inner, theta, support, query, estimators=[mf.FirstOrder()], has_aux=True, with_theta=True
    )
    task = logistic()
    assert found.rows[1].error == pytest.approx(error(task.v + 1, task.explicit()[0] + 1), rel=1e-11)


def test_time_is_the_median_over_rounds_in_which_all_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = [1.0, 2.0, 10.0, 20.0, 3.0, 8.0]  # round by round: the reference, first-order
    ticks = iter([t for d in durations for t in (0.0, d)])
    monkeypatch.setattr(sys.modules[compare.__module__], "perf_counter", lambda: next(ticks))
    theta, support, query = tensors(logistic())
    inner = mf.gradient_descent(logistic_loss, lr=0.3, steps=5)
    rows = compare(logistic_loss, inner, theta, support, query, estimators=[mf.FirstOrder()], repeats=3).rows
    assert [(row.seconds, row.ratio) for row in rows] == [(3.0, 1.0), (8.0, 8 / 3)]


def test_the_table_is_aligned() -> None:
    rows = (
        Row("Explicit()", 0.0, 1.0, 0.0123, 1.0, 2_500_000),
        Row("FirstOrder()", 0.1234, 0.98765, 0.0041, 1 / 3, 800_000),
        Row("Implicit()", own_problem=True, refusal="ZeroGradientError: no"),
    )
    assert Comparison(rows, "Explicit()").table().splitlines() == [
        "estimator     error  cosine  time/ms  ratio  memory/MB",
        "------------------------------------------------------",
        "Explicit()        0  1.0000     12.3   1.00       2.50",
        "FirstOrder()   0.12  0.9877     4.10   0.33       0.80",
        "Implicit() *      -       -        -      -          -",
        "* on an inner problem of its own, measured against Explicit() on that one",
        "Implicit(): ZeroGradientError: no",
    ]


def test_memory_of_an_unroll_grows_with_its_steps_and_that_of_a_checkpointed_one_does_not() -> None:
    def loss(phi: Any, batch: Any) -> Any:
        return torch.tanh(batch @ phi).square().mean()

    def measured(steps: int) -> tuple[float, float]:
        inner = mf.gradient_descent(loss, lr=0.1, steps=steps)
        batch = torch.ones(20_000, 2)
        rows = compare(
            loss, inner, torch.ones(2), batch, batch, estimators=[mf.Explicit(checkpoint=True)], repeats=1
        ).rows
        return rows[0].memory, rows[1].memory

    (unrolled, checkpointed), (unrolled_longer, checkpointed_longer) = measured(4), measured(16)
    assert unrolled_longer > 2.5 * unrolled
    assert checkpointed_longer < 1.1 * checkpointed


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ({"estimators": mf.FirstOrder()}, TypeError, "estimators: expected a sequence"),
        ({"estimators": [mf.FirstOrder]}, TypeError, "got the class FirstOrder"),
        ({"estimators": {"a": 1}}, TypeError, "estimators: expected a sequence"),
        ({"estimators": "FirstOrder"}, TypeError, "estimators: expected a sequence"),
        ({"estimators": [], "reference": mf.Explicit}, TypeError, "reference: expected an estimator"),
        ({"estimators": [], "repeats": 0}, ValueError, "repeats: expected an integer of at least 1"),
    ],
)
def test_refused_arguments(given: dict[str, Any], kind: type[Exception], says: str) -> None:
    inner = mf.gradient_descent(logistic_loss, lr=0.3, steps=5)
    with pytest.raises(kind, match=says):
        compare(logistic_loss, inner, *tensors(logistic()), **given)


def test_inner_has_to_be_an_inner_problem() -> None:
    with pytest.raises(TypeError, match="compare: expected an inner problem"):
        compare(logistic_loss, logistic_loss, *tensors(logistic()), estimators=[])  # type: ignore[arg-type]
