"""Every estimator under every transform: right against an independent reference, or refused with its error.

The reference is :mod:`tests.reference`, plain eager autograd on one task at a time on the CPU in double precision. No
cell may be silently wrong. Every day the whole matrix runs on the MLP, and on the conv net where its BatchNorm can make
a difference; the rest is marked as exhaustive. On a GPU all of it runs in double and in single precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vmap

import metafunc as mf
from metafunc import tree
from tests.devices import CUDA
from tests.models import MODELS, TASKS, Model
from tests.reference import Reference


@dataclass(frozen=True)
class Case:
    """An estimator, its reference, and which second derivatives and forward modes it defines."""

    make: Callable[[], mf.Estimator]
    reference: Callable[[Reference], Tensor]
    solved: bool = False  # on the converged inner problem
    smooth: bool = False  # has exact second derivatives
    forward: bool = True  # has a forward mode
    mean: bool = True  # may be averaged over vmap
    rtol: float = 1e-9
    single: float = 2e-4  # the same in single precision


CASES = {
    "explicit": Case(mf.Explicit, Reference.explicit, smooth=True),
    "explicit-checkpoint": Case(lambda: mf.Explicit(checkpoint=True), Reference.explicit, smooth=True),
    "explicit-segments": Case(lambda: mf.Explicit(checkpoint=2), Reference.explicit, smooth=True),
    "explicit-hessian-free": Case(
        lambda: mf.Explicit(curvature=mf.CentralDifference()), Reference.explicit, rtol=1e-6, single=0.1
    ),
    "first-order": Case(mf.FirstOrder, Reference.v),
    "truncated": Case(lambda: mf.Truncated(2), lambda r: r.truncated(2)),
    "truncated-all": Case(lambda: mf.Truncated(3), Reference.explicit, smooth=True),
    "binomial": Case(lambda: mf.Binomial(2), lambda r: r.binomial(2)),
    "binomial-window": Case(lambda: mf.Binomial(1, window=2), lambda r: r.binomial(1, 2)),
    "binomial-all": Case(lambda: mf.Binomial(3), Reference.explicit, smooth=True),
    "implicit": Case(
        lambda: mf.Implicit(mf.CG(25, rtol=1e-13)), Reference.implicit, solved=True, smooth=True, rtol=1e-8
    ),
    "implicit-direct": Case(
        lambda: mf.Implicit(mf.Direct()), Reference.implicit, solved=True, smooth=True, rtol=1e-8
    ),
    "implicit-hessian-free": Case(
        lambda: mf.Implicit(mf.CG(12), mf.CentralDifference()),
        Reference.implicit,
        solved=True,
        rtol=1e-4,
        single=0.1,
    ),
    "difference": Case(
        mf.FiniteDifference, Reference.implicit, solved=True, forward=False, rtol=1e-5, single=0.1
    ),
    "tangent": Case(
        lambda: mf.FiniteDifference(scheme="tangent"),
        Reference.implicit,
        solved=True,
        forward=False,
        rtol=1e-6,
    ),
    "reptile": Case(mf.Reptile, Reference.reptile, forward=False, mean=False),
}
QUICK = [
    "explicit",
    "explicit-checkpoint",
    "first-order",
    "truncated",
    "binomial",
    "implicit",
    "difference",
    "reptile",
]


@cache
def _setting(name: str, solved: bool) -> tuple[Model, int, list[Reference]]:
    torch.manual_seed(1)
    model = MODELS[name]()
    steps = model.solved_steps if solved else model.steps
    return model, steps, [model.reference(i, steps) for i in range(TASKS)]


@cache
def _expected(name: str, case: str) -> Tensor:
    return torch.stack([CASES[case].reference(r) for r in _setting(name, CASES[case].solved)[2]])


class Cell:
    """One row of the matrix on one model."""

    def __init__(
        self, model: str, case: str, device: str = "cpu", dtype: torch.dtype = torch.float64
    ) -> None:
        self.case, self.expected = CASES[case], _expected(model, case)
        self.at_home, steps, self.references = _setting(model, self.case.solved)
        self.model = m = self.at_home.to(device, dtype)
        self.rtol = self.case.rtol if dtype == torch.float64 else self.case.single
        self.adapt = self.case.make()(mf.gradient_descent(m.loss, lr=m.lr, prox=m.prox, steps=steps))
        self.tasks = (m.support, m.query)

    def meta_loss(self, theta: Any, support: Any, query: Any) -> Tensor:
        return self.model.loss(self.adapt(theta, support), query)

    def mean(self, theta: Any) -> Tensor:
        return vmap(self.meta_loss, in_dims=(None, 0, 0), randomness="same")(theta, *self.tasks).mean()

    def check(self, found: Tensor, expected: Tensor, factor: float = 1.0) -> None:
        self.near(found, expected, factor * self.rtol * expected.norm())

    def near(self, found: Tensor, expected: Tensor, within: Any) -> None:
        assert (found.device, found.dtype) == (self.tasks[0][0].device, self.tasks[0][0].dtype)
        error = (found.to("cpu", torch.float64) - expected).norm()
        assert error <= within, f"error {error:.2e} where {within:.2e} is allowed"


def over_cells(
    mlp: Iterable[str] = CASES, conv: Iterable[str] = (), gpu: Iterable[str] = CASES
) -> pytest.MarkDecorator:
    """The matrix, of which these estimators run every day, and these on a GPU."""
    everyday = {("mlp", case) for case in mlp} | {("conv", case) for case in conv}
    params = [
        pytest.param(cell, id="-".join(cell), marks=() if cell in everyday else pytest.mark.exhaustive)
        for cell in product(MODELS, CASES)
    ]
    for model, case, dtype in product(("mlp", "conv"), CASES, (torch.float64, torch.float32)):
        name = f"{model}-{case}-{str(dtype).removeprefix('torch.')}"
        if dtype == torch.float32:
            params.append(pytest.param((model, case, "cpu", dtype), id=name, marks=pytest.mark.exhaustive))
        if case in gpu:
            params.append(pytest.param((model, case, "cuda", dtype), id=f"{name}-cuda", marks=CUDA.marks))
    return pytest.mark.parametrize("cell", params, indirect=True)


OUTSIDE = ["explicit", "explicit-checkpoint", "truncated", "binomial", "implicit", "difference"]
"""Where a derivative is taken outside of vmap, a norm is differentiated otherwise."""


@pytest.fixture
def cell(request: pytest.FixtureRequest) -> Cell:
    return Cell(*request.param)


def test_the_references_are_not_degenerate() -> None:
    for name in MODELS:
        exact, first = _expected(name, "explicit"), _expected(name, "first-order")
        assert 0.01 < exact.norm() < 100
        assert (exact - first).norm() > 0.1 * exact.norm()
        implicit = _expected(name, "implicit")
        solved = torch.stack([r.v() for r in _setting(name, True)[2]])
        assert (implicit - solved).norm() > 0.05 * implicit.norm()
        for reference in _setting(name, True)[2]:
            last = reference.path()[-1].requires_grad_()
            slope = torch.autograd.grad(reference.objective(last, reference.theta), last)[0]
            assert slope.norm() < 1e-9


@over_cells()
def test_grad(cell: Cell) -> None:
    found = grad(cell.meta_loss)(cell.model.theta, *cell.model.task(0))
    cell.check(cell.model.flat(found), cell.expected[0])


@over_cells()
def test_eager_backward(cell: Cell) -> None:
    theta = tree.map(lambda x: x.clone().requires_grad_(), cell.model.theta)
    cell.meta_loss(theta, *cell.model.task(1)).backward()
    cell.check(cell.model.flat(tree.map(lambda x: x.grad, theta)), cell.expected[1])


@over_cells(conv=["explicit", "implicit"])
def test_vmap_of_grad(cell: Cell) -> None:
    found = vmap(grad(cell.meta_loss), in_dims=(None, 0, 0))(cell.model.theta, *cell.tasks)
    cell.check(torch.cat([x.reshape(TASKS, -1) for x in tree.leaves(found)], 1), cell.expected)


@over_cells(mlp=QUICK, gpu=())
def test_vmap_is_the_loop(cell: Cell) -> None:
    batched = vmap(grad(cell.meta_loss), in_dims=(None, 0, 0))(cell.model.theta, *cell.tasks)
    looped = tree.stack([grad(cell.meta_loss)(cell.model.theta, *cell.model.task(i)) for i in range(TASKS)])
    a, b = cell.model.flat(batched), cell.model.flat(looped)
    assert (a - b).norm() <= (1e-12 if cell.rtol < 1e-6 else cell.rtol) * b.norm()


@over_cells(conv=OUTSIDE)
def test_grad_of_a_mean_over_vmap(cell: Cell) -> None:
    """The order in which torch 2.13 itself is silently wrong for BatchNorm."""
    if not cell.case.mean:
        with pytest.raises(mf.ZeroGradientError, match="cannot weigh it"):
            grad(cell.mean)(cell.model.theta)
        return
    cell.check(cell.model.flat(grad(cell.mean)(cell.model.theta)), cell.expected.mean(0))


@over_cells(conv=OUTSIDE)
def test_eager_backward_of_a_mean_over_vmap(cell: Cell) -> None:
    theta = tree.map(lambda x: x.clone().requires_grad_(), cell.model.theta)
    if not cell.case.mean:
        with pytest.raises(mf.ZeroGradientError, match="cannot weigh it"):
            cell.mean(theta).backward()
        return
    cell.mean(theta).backward()
    cell.check(cell.model.flat(tree.map(lambda x: x.grad, theta)), cell.expected.mean(0))


@over_cells(conv=["explicit"])
def test_vmap_of_grad_of_vmap(cell: Cell) -> None:
    if not cell.case.mean:
        pytest.skip("refused, see test_grad_of_a_mean_over_vmap")
    thetas = tree.map(lambda x: torch.stack([x, x]), cell.model.theta)
    found = vmap(grad(cell.mean))(thetas)
    cell.check(cell.model.flat(tree.index(found, 1)), cell.expected.mean(0))


@pytest.mark.parametrize("tasks", [mf.Vmap(), mf.Vmap(chunk=1), mf.Loop()], ids=repr)
@over_cells(mlp=QUICK, gpu=QUICK)
def test_meta_grad_in_chunks_and_loops(cell: Cell, tasks: Any) -> None:
    result = mf.meta_grad(cell.model.loss, cell.adapt, tasks=tasks)(cell.model.theta, *cell.tasks)
    cell.check(cell.model.flat(result.grad), cell.expected.mean(0))
    losses = vmap(cell.meta_loss, in_dims=(None, 0, 0))(cell.model.theta, *cell.tasks)
    close_by = 1e-12 if losses.dtype == torch.float64 else 1e-5
    assert torch.allclose(result.stats["loss"], losses, rtol=close_by)
    assert torch.allclose(result.value, losses.mean(), rtol=close_by)


@pytest.mark.parametrize("batched", [False, True])
@over_cells(conv=["explicit"])
def test_gradients_to_the_data(cell: Cell, batched: bool) -> None:
    if not cell.case.smooth:
        pytest.skip("only theta has a reference here, but for exact estimators")
    (x, y), query = cell.model.task(0)
    reference, m, at_home = cell.references[0], cell.model, cell.at_home
    leaf = x.to("cpu", torch.float64, copy=True).requires_grad_()

    def objective(phi: Tensor, theta: Tensor) -> Tensor:
        return m.loss(at_home.unravel(phi), (leaf, y.cpu())) + m.prox / 2 * ((phi - theta) ** 2).sum()

    moved = Reference(objective, reference.outer, reference.theta, reference.lr, reference.steps)
    start = reference.theta.clone().requires_grad_()
    (expected,) = torch.autograd.grad(moved.outer(moved.unrolled(start)), leaf)
    each = grad(lambda x, q: cell.meta_loss(m.theta, (x, y), q))
    found = vmap(each)(x[None], tree.map(lambda t: t[None], query))[0] if batched else each(x, query)
    cell.check(found, expected, factor=100)


@pytest.mark.parametrize("name", [c for c in CASES if CASES[c].smooth])
def test_a_pullback_outlives_the_transform_that_made_it(name: str) -> None:
    """Linear in its cotangent, whatever runs around it; torch itself keeps wrappers of the transform that is gone."""
    cell = Cell("convex", name)
    (x, y), _ = cell.model.task(0)
    phi, pull = torch.func.vjp(lambda t, x: cell.adapt(t, (x, y)), cell.model.theta, x)
    v = torch.cos(phi)
    expected = pull(v)[1]
    cell.check(jvp(lambda v: pull(v)[1], (v,), (v,))[1], expected)
    cell.check(vmap(pull)(v[None])[1][0], expected)
    cell.check(grad(lambda v: (pull(v)[1] * expected).sum())(v) @ v, (expected**2).sum())


def _jacobian(reference: Reference, case: Case) -> Tensor:
    """The estimator's Jacobian, row by row from its action on the unit cotangents."""
    rows = []
    for unit in torch.eye(len(reference.theta)):
        moved = Reference(
            reference.objective, lambda phi, u=unit: phi @ u, reference.theta, reference.lr, reference.steps
        )
        rows.append(case.reference(moved))
    return torch.stack(rows)


@pytest.mark.parametrize("name", [c for c in CASES if c != "reptile"])
def test_jacrev_of_a_vector_outcome(name: str) -> None:
    cell = Cell("convex", name)
    expected = _jacobian(cell.references[0], cell.case)
    cell.check(jacrev(cell.adapt)(cell.model.theta, cell.model.task(0)[0]), expected)


@over_cells(conv=["explicit", "binomial", "implicit"])
def test_jvp(cell: Cell) -> None:
    """Forward mode gives the transposed of the very same Jacobian."""
    direction = tree.map(torch.cos, cell.model.theta)

    def push() -> Tensor:
        theta, task = cell.model.theta, cell.model.task(0)
        return jvp(lambda t: cell.meta_loss(t, *task), (theta,), (direction,))[1]

    if not cell.case.forward:
        with pytest.raises(mf.ForwardModeError, match="has no forward-mode derivative"):
            push()
        return
    u = cell.model.flat(direction).to("cpu", torch.float64)
    cell.near(push(), cell.expected[0] @ u, cell.rtol * cell.expected[0].norm() * u.norm())
    if cell.case.mean:
        _, batched = jvp(cell.mean, (cell.model.theta,), (direction,))
        cell.near(batched, cell.expected.mean(0) @ u, cell.rtol * cell.expected.norm() * u.norm())


@pytest.mark.parametrize(
    "nested",
    [(jacrev, jacrev), (jacfwd, jacrev), (jacrev, jacfwd), (jacfwd, jacfwd)],
    ids=lambda p: "-".join(f.__name__ for f in p),
)
@pytest.mark.parametrize("name", CASES)
def test_hessian_on_the_convex_problem(name: str, nested: Any) -> None:
    cell = Cell("convex", name)
    outer, inner = nested
    task = cell.model.task(0)

    def hessian() -> Tensor:
        return outer(inner(lambda t: cell.meta_loss(t, *task)))(cell.model.theta)

    if not cell.case.smooth:
        with pytest.raises((mf.SecondDerivativeError, mf.ForwardModeError)):
            hessian()
        return
    # At a converged inner solution the Hessian of the unrolled path is that of the solution.
    cell.check(hessian(), cell.references[0].meta_hessian(), factor=10)


@over_cells(conv=["explicit", "implicit"])
def test_hessian_vector_products(cell: Cell) -> None:
    task, u = cell.model.task(0), tree.map(torch.cos, cell.model.theta)

    def reverse() -> Any:
        return grad(lambda t: tree.dot(grad(cell.meta_loss)(t, *task), u))(cell.model.theta)

    def eager() -> Any:
        theta = tree.map(lambda x: x.clone().requires_grad_(), cell.model.theta)
        leaves = tree.leaves(theta)
        first = torch.autograd.grad(cell.meta_loss(theta, *task), leaves, create_graph=True)
        products = sum((g * w).sum() for g, w in zip(first, tree.leaves(u), strict=True))
        return list(torch.autograd.grad(products, leaves))

    for differentiate in (reverse, eager):
        if not cell.case.smooth:
            with pytest.raises(mf.SecondDerivativeError, match="is not the derivative of any function"):
                differentiate()
            continue
        reference = cell.references[0]
        theta = reference.theta.clone().requires_grad_()
        (first,) = torch.autograd.grad(reference.outer(reference.unrolled(theta)), theta, create_graph=True)
        (expected,) = torch.autograd.grad(first @ cell.model.flat(u).to("cpu", torch.float64), theta)
        cell.check(cell.model.flat(differentiate()), expected, factor=10)


@pytest.mark.parametrize("name", QUICK)
def test_single_precision(name: str) -> None:
    cell = Cell("mlp", name, dtype=torch.float32)
    found = vmap(grad(cell.meta_loss), in_dims=(None, 0, 0))(cell.model.theta, *cell.tasks)
    assert all(x.dtype == torch.float32 for x in tree.leaves(found))
    cell.check(torch.cat([x.reshape(TASKS, -1) for x in tree.leaves(found)], 1), cell.expected)


WRAPS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "dict": (lambda t: {"a": t[:1], "b": t[1:]}, lambda p: torch.cat([p["a"], p["b"]])),
    "tuple": (lambda t: (t[:3], t[3:]), torch.cat),
    "nested": (
        lambda t: {"x": [t[:1], (t[1:2],)], "y": t[2:]},
        lambda p: torch.cat([p["x"][0], p["x"][1][0], p["y"]]),
    ),
    "tensor": (lambda t: t, lambda p: p),
}


@pytest.mark.parametrize("kind", WRAPS)
@pytest.mark.parametrize("name", CASES)
def test_parameters_of_any_shape(name: str, kind: str) -> None:
    cell = Cell("convex", name)
    wrap, unwrap = WRAPS[kind]
    loss, m = cell.model.loss, cell.model
    inner = mf.gradient_descent(
        lambda p, batch: loss(unwrap(p), batch), lr=m.lr, prox=m.prox, steps=cell.references[0].steps
    )
    adapt = cell.case.make()(inner)
    found = grad(lambda t, s, q: loss(unwrap(adapt(t, s)), q))(wrap(m.theta), *m.task(0))
    assert tree.structure(found) == tree.structure(wrap(m.theta))
    cell.check(unwrap(found), cell.expected[0])


@pytest.mark.parametrize("order", ["vmap(grad)", pytest.param("grad(vmap)", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("name", QUICK)
def test_torch_compile(name: str, order: str) -> None:
    """Without care torch.compile would drop the derivative rules and differentiate the solver's own operations."""
    cell = Cell("convex", name)
    if cell.case.solved:  # a shorter path: the reference is then eager metafunc, itself checked above
        inner = mf.gradient_descent(cell.model.loss, lr=cell.model.lr, prox=cell.model.prox, steps=4)
        cell.adapt = cell.case.make()(inner) if name != "implicit" else mf.Implicit(mf.CG(3))(inner)
    each = vmap(grad(cell.meta_loss), in_dims=(None, 0, 0))
    fn = each if order == "vmap(grad)" else (lambda t, *tasks: grad(cell.mean)(t))
    if order == "grad(vmap)" and not cell.case.mean:
        pytest.skip("refused, see test_grad_of_a_mean_over_vmap")
    torch._dynamo.reset()
    compiled = torch.compile(fn, fullgraph=True, backend="aot_eager")(cell.model.theta, *cell.tasks)
    eager = fn(cell.model.theta, *cell.tasks)
    assert (compiled - eager).norm() <= 1e-10 * eager.norm()
    if not cell.case.solved:
        cell.check(compiled, cell.expected if order == "vmap(grad)" else cell.expected.mean(0))


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")  # those of torch's own compiler
def test_torch_compile_with_inductor() -> None:
    cell = Cell("mlp", "explicit")
    each = vmap(grad(cell.meta_loss), in_dims=(None, 0, 0))
    torch._dynamo.reset()
    compiled = torch.compile(each, fullgraph=True)(cell.model.theta, *cell.tasks)
    flat = torch.cat([x.reshape(TASKS, -1) for x in tree.leaves(compiled)], 1)
    cell.check(flat, cell.expected)
