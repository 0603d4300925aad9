"""Estimators side by side on the user's own problem: error, time and memory of a meta-gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from metafunc import errors, options, tree
from metafunc.batching import Batching
from metafunc.estimator import Adapt, Estimator
from metafunc.estimators import Explicit
from metafunc.inner import Inner
from metafunc.memory import peak_memory
from metafunc.metagrad import meta_grad
from metafunc.tree import Tree

Candidate = Estimator | Adapt


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one estimator; a figure that could not be had is ``nan``.

    Attributes:
        label: The estimator as it was declared, or the name it was given.
        error: ``||g - g_ref|| / ||g_ref||`` over the whole meta-gradient.
        cosine: ``<g, g_ref> / (||g|| ||g_ref||)``.
        seconds: The median wall time of one meta-gradient.
        ratio: ``seconds`` over those of the reference on the same inner problem.
        memory: The peak of one call above what was held before it, in bytes.
        own_problem: Whether it solves another inner problem than the one that was handed to :func:`compare`.
        refusal: The text of the error, if there was one, that is the reason for missing figures.
    """

    label: str
    error: float = math.nan
    cosine: float = math.nan
    seconds: float = math.nan
    ratio: float = math.nan
    memory: float = math.nan
    own_problem: bool = False
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome of :func:`compare`; it prints as a table.

    Attributes:
        rows: One for each candidate, in the order given.
        reference: The label of what the errors are measured against.
    """

    rows: tuple[Row, ...]
    reference: str

    def table(self) -> str:
        """The rows as aligned plain text; below them a remark if one is due, and the texts of refusals."""
        head = ("estimator", "error", "cosine", "time/ms", "ratio", "memory/MB")
        names, *figures = zip(head, *map(_cells, self.rows), strict=True)
        columns = [_aligned(str.ljust, names), *(_aligned(str.rjust, column) for column in figures)]
        lines = ["  ".join(line) for line in zip(*columns, strict=True)]
        lines.insert(1, "-" * len(lines[0]))
        if any(row.own_problem for row in self.rows):
            lines.append(f"* on an inner problem of its own, measured against {self.reference} on that one")
        return "\n".join(lines + [f"{row.label}: {row.refusal}" for row in self.rows if row.refusal])

    def __str__(self) -> str:
        return self.table()


def compare(
    outer: Callable[..., Any],
    inner: Inner,
    theta: Tree,
    *data_and_query: Tree,
    estimators: Iterable[Candidate] | Mapping[str, Candidate],
    tasks: Batching | None = None,
    reference: Estimator = Explicit(),
    repeats: int = 5,
    has_aux: bool = False,
    with_theta: bool = False,
) -> Comparison:
    """Measure what estimators get wrong, and what they cost, on the problem at hand.

    Maths: the error is ``||g - g_ref|| / ||g_ref||`` over all leaves of the meta-gradient together, where
    ``g_ref`` is the reference's gradient *of the same inner problem*. With the default, ``Explicit()``, that is
    the exact derivative of the path actually taken. ``Implicit`` and ``FiniteDifference`` estimate something
    else, the derivative of the *solution*. Measured in the same way, their error has two parts: their own (the
    linear solve, the difference), and the distance of the end of the path from the solution. To see the first
    part alone take many inner steps, or ``reference=Implicit(Direct())``.

    Args:
        outer: ``outer(phi, query) -> scalar``, as for :func:`metafunc.meta_grad`.
        inner: The inner problem.
        theta: The meta-parameters.
        data_and_query: The task's data and, last, its query set; with a leading axis of tasks where ``tasks``
            is given.
        estimators: What to compare. An estimator is wrapped around ``inner``. An inner problem that is wrapped
            already stands for itself: this is for estimators that need a problem of their own, with a ``prox``
            say, ``mf.Implicit()(mf.gradient_descent(loss, lr=0.1, steps=5, prox=1.0))``. A mapping gives names.
        tasks: As for :func:`metafunc.meta_grad`.
        reference: What counts as exact. It heads the table, unless it is among ``estimators``.
        repeats: How many calls of each are timed. They take turns, so that a slow spell of the machine falls on
            all alike. Each is called once before, and once more to measure its memory.
        has_aux: As for :func:`metafunc.meta_grad`.
        with_theta: As for :func:`metafunc.meta_grad`.

    Returns:
        A table to print, with ``rows`` for programs. An estimator that refuses the problem, or fails on it, has
        a row with the text of its error.

    Cost: ``repeats + 2`` meta-gradients for each candidate. Equally right methods differ by rounding, which
    inner steps amplify: to tell small errors from it, hand over float64 tensors.

    Raises:
        TypeError, ValueError: If an argument is of another kind, or out of range.
        Exception: Whatever the reference raises on ``inner``: there is nothing to measure against then.

    Example:
        >>> print(mf.compare(loss, inner, theta, support, query, estimators=[mf.FirstOrder(), mf.Binomial(2)]))
    """
    if not isinstance(inner, Inner):
        raise errors.not_an_inner_problem("compare", inner)
    options.instance("reference", reference, Estimator, "an estimator, such as Explicit()")
    options.integer("repeats", repeats, 5)
    candidates = _labelled(estimators)
    # A tensor that requires grad would make each of them keep a graph for a backward pass that never comes.
    args = tree.map(lambda x: x.detach() if isinstance(x, Tensor) else x, (theta, *data_and_query))
    device = next((x.device for x in tree.leaves(args) if isinstance(x, Tensor)), torch.device("cpu"))

    def start(candidate: Candidate, problem: Inner) -> _Run:
        adapt = candidate if isinstance(candidate, Adapt) else candidate(problem)
        step = meta_grad(outer, adapt, tasks=tasks, has_aux=has_aux, with_theta=with_theta)
        return _Run(lambda: step(*args).grad, gradient=step(*args).grad)

    def attempt(candidate: Candidate, problem: Inner) -> _Run:
        try:
            return start(candidate, problem)
        except Exception as error:  # whatever goes wrong with one must not cost the user the other rows
            return _Run(refusal=f"{type(error).__name__}: {error}")

    exact = {id(inner): start(reference, inner)}
    listed: list[tuple[str, Inner, _Run]] = []
    for label, candidate in candidates:
        estimator, problem = _parts(candidate, inner)
        if id(problem) not in exact:
            exact[id(problem)] = attempt(reference, problem)
        run = exact[id(problem)] if estimator == reference else attempt(candidate, problem)
        listed.append((label, problem, run))
    if all(run is not exact[id(inner)] for *_, run in listed):
        listed.insert(0, (repr(reference), inner, exact[id(inner)]))

    running = {id(run): run for run in (*exact.values(), *(run for *_, run in listed)) if run.refusal is None}
    for _ in range(repeats):
        for run in running.values():
            run.seconds.append(_seconds(run.call, device))
    for run in running.values():
        run.memory = peak_memory(run.call, device)
    rows = (_row(label, run, exact[id(problem)], problem is not inner) for label, problem, run in listed)
    return Comparison(tuple(rows), repr(reference))


@dataclass(slots=True)
class _Run:
    """One estimator on one inner problem, and what is known of it so far."""

    call: Callable[[], Tree] = lambda: None
    gradient: Tree = None
    refusal: str | None = None
    seconds: list[float] = field(default_factory=list[float])
    memory: float = math.nan


def _labelled(given: Iterable[Candidate] | Mapping[str, Candidate]) -> list[tuple[str, Candidate]]:
    expected = "a sequence of estimators and wrapped inner problems, or a mapping of names to them"
    if not isinstance(given, Iterable):
        raise errors.not_a("estimators", expected, given)
    named = isinstance(given, Mapping)
    candidates: list[Candidate] = list(given.values() if named else given)
    for candidate in candidates:
        if not isinstance(candidate, Candidate):
            raise errors.not_a("estimators", expected, candidate)
    labels = list(given) if named else [repr(_parts(c, None)[0]) for c in candidates]
    return list(zip(map(str, labels), candidates, strict=True))


def _parts(candidate: Candidate, inner: Any) -> tuple[Estimator, Any]:
    return (candidate.estimator, candidate.inner) if isinstance(candidate, Adapt) else (candidate, inner)


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    start = perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # calls return before the device is done
    return perf_counter() - start


def _row(label: str, run: _Run, exact: _Run, own_problem: bool) -> Row:
    if run.refusal is not None:
        return Row(label, own_problem=own_problem, refusal=run.refusal)
    seconds = median(run.seconds)
    if exact.refusal is not None:
        why = f"no error, for the reference was refused: {exact.refusal}"
        return Row(label, seconds=seconds, memory=run.memory, own_problem=own_problem, refusal=why)
    ratio, found = seconds / median(exact.seconds), _distance(run.gradient, exact.gradient)
    error, cosine = found or (math.nan, math.nan)
    why = None if found else "no error, for the meta-gradient of the reference is zero"
    return Row(label, error, cosine, seconds, ratio, run.memory, own_problem, why)


def _distance(gradient: Tree, reference: Tree) -> tuple[float, float] | None:
    """The relative error and the cosine; ``None`` where the reference is zero."""
    g, r = (
        torch.cat([x.to("cpu", torch.float64).flatten() for x in tree.leaves(t) if x is not None])
        for t in (gradient, reference)
    )
    size, own = float(r.norm()), float(g.norm())
    if size == 0:
        return None
    return float((g - r).norm()) / size, float(torch.dot(g, r)) / (own * size) if own else math.nan


def _cells(row: Row) -> tuple[str, ...]:
    figures = (row.error, row.cosine, 1e3 * row.seconds, row.ratio, row.memory / 1e6)
    texts = (f"{row.error:.2g}", f"{row.cosine:.4f}", *map(_three_figures, figures[2:]))
    shown = ("-" if math.isnan(x) else text for x, text in zip(figures, texts, strict=True))
    return (row.label + (" *" if row.own_problem else ""), *shown)


def _three_figures(x: float) -> str:
    """Without an exponent, so that a column can be read down."""
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def _aligned(align: Callable[[str, int], str], column: tuple[str, ...]) -> list[str]:
    return [align(text, max(map(len, column))) for text in column]
