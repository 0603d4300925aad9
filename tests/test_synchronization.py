"""What would have the host wait for a GPU in a meta-gradient: reading a value, or copying one there.

Tensors on the ``meta`` device have no values. A computation that goes through on it has read none; and whatever else
than a number comes from the CPU is seen by the mode below. No GPU is needed for either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import metafunc as mf
from metafunc import tree
from tests.devices import on_devices, without_waiting
from tests.models import Model, conv, convex, mlp

QUIET = {"early_exit": False}
ESTIMATORS: dict[str, mf.Estimator] = {
    "explicit": mf.Explicit(),
    "explicit-checkpoint": mf.Explicit(checkpoint=True),
    "explicit-segments": mf.Explicit(checkpoint=2),
    "explicit-hessian-free": mf.Explicit(curvature=mf.CentralDifference()),
    "explicit-forward": mf.Explicit(curvature=mf.Exact(mode="forward")),
    "first-order": mf.FirstOrder(),
    "truncated": mf.Truncated(2),
    "binomial": mf.Binomial(2),
    "binomial-window": mf.Binomial(1, window=2),
    "binomial-rescaled": mf.Binomial(2, rescale=True),
    "cg": mf.Implicit(mf.CG(2, **QUIET)),
    "cg-fallback": mf.Implicit(mf.CG(2, fallback=mf.MINRES(2, **QUIET), **QUIET)),
    "cg-jacobi": mf.Implicit(mf.CG(2, preconditioner=mf.Jacobi(3), **QUIET)),
    "cg-jacobi-exact": mf.Implicit(mf.CG(2, preconditioner=mf.Jacobi(), **QUIET)),
    "cg-damped": mf.Implicit(mf.CG(2, damping=0.1, **QUIET)),
    "minres": mf.Implicit(mf.MINRES(2, **QUIET)),
    "gmres": mf.Implicit(mf.GMRES(2, **QUIET)),
    "gmres-restart": mf.Implicit(mf.GMRES(3, restart=2, **QUIET)),
    "normal-cg": mf.Implicit(mf.NormalCG(2, **QUIET)),
    "neumann": mf.Implicit(mf.Neumann(2, scale=0.1)),
    "direct": mf.Implicit(mf.Direct()),
    "implicit-hessian-free": mf.Implicit(mf.CG(2, **QUIET), mf.CentralDifference()),
    "difference": mf.FiniteDifference(),
    "difference-forward": mf.FiniteDifference(scheme="forward", order=2),
    "difference-symmetric": mf.FiniteDifference(order=4, recenter=False),
    "tangent": mf.FiniteDifference(scheme="tangent"),
    "reptile": mf.Reptile(),
}
SOLVERS: dict[str, Callable[..., mf.Inner]] = {
    "gradient-descent": lambda loss, **o: mf.gradient_descent(loss, lr=0.1, steps=3, **o),
    "momentum": lambda loss, **o: mf.gradient_descent(loss, lr=0.1, momentum=0.9, steps=3, **o),
    "nesterov": lambda loss, **o: mf.nesterov(loss, smoothness=4.0, steps=3, **o),
    "adam": lambda loss, **o: mf.adam(loss, lr=0.1, steps=3, **o),
    "newton-cg": lambda loss, **o: mf.newton_cg(loss, steps=3, solver=mf.CG(3, **QUIET), backtracks=2, **o),
}
SIGHTS = [*((mlp, name) for name in ESTIMATORS), *((conv, name) for name in ("explicit", "cg", "difference"))]
NUMBERS = {"mul", "add", "sub", "div", "pow", "gt", "ge", "lt", "le", "eq", "ne", "bitwise_and", "remainder"}
"""Operators that take a number as it is; others would copy it to the GPU first."""


class NothingMoves(TorchDispatchMode):
    """Refuses operators that take a tensor from the CPU elsewhere while the host waits."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
        if len({x.device for x in tensors}) > 1 and not (kwargs or {}).get("non_blocking"):
            # The zeros that forward mode keeps for a number have no memory to be copied.
            from_cpu = [x for x in tensors if x.device.type == "cpu" and not x._is_zerotensor()]
            if any(func.overloadpacket.__name__ not in NUMBERS or x.ndim for x in from_cpu):
                raise AssertionError(f"{func} has the host wait")
        return out


class NothingIsMade(TorchFunctionMode):
    """Refuses tensors made of Python's numbers elsewhere than on the CPU, from where they are copied."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device = torch.device((kwargs or {}).get("device") or "cpu")
        made = func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor)
        if made and device.type != "cpu":
            raise AssertionError(f"{func.__name__} has the host wait")
        return func(*args, **(kwargs or {}))


def on_meta(model: Model) -> Model:
    theta, support, query = tree.map(lambda x: x.to("meta"), (model.theta, model.support, model.query))
    return replace(model, theta=theta, support=support, query=query)


def meta_step(model: Model, adapt: mf.Adapt) -> mf.MetaGrad:
    return mf.meta_grad(model.loss, adapt, tasks=mf.Vmap())(model.theta, model.support, model.query)


@pytest.mark.parametrize(("make", "name"), SIGHTS)
def test_no_estimator_has_the_host_wait(make: Callable[[], Model], name: str) -> None:
    model = on_meta(make())
    inner = mf.gradient_descent(model.loss, lr=0.1, prox=1.0, steps=2, tolerance=1e-3, **QUIET)
    with NothingMoves(), NothingIsMade():
        found = meta_step(model, ESTIMATORS[name](inner))
    assert all(x.device.type == "meta" for x in tree.leaves(found.grad))


@pytest.mark.parametrize("name", SOLVERS)
def test_no_inner_solver_has_the_host_wait(name: str) -> None:
    model = on_meta(mlp())
    inner = SOLVERS[name](model.loss, prox=1.0, tolerance=1e-3, **QUIET)
    with NothingMoves(), NothingIsMade():
        meta_step(model, mf.Implicit(mf.CG(2, **QUIET))(inner))


def test_a_key_is_made_where_it_is_used() -> None:
    key = torch.zeros((), dtype=torch.int64, device="meta")
    with NothingMoves(), NothingIsMade():
        assert mf.fold_in(key, 3).device.type == mf.fold_in(key, key).device.type == "meta"


def test_what_the_mode_and_the_meta_device_refuse() -> None:
    x = torch.ones(3, device="meta")
    with NothingMoves(), NothingIsMade():
        _ = 2.0 * x + torch.tensor(1.0)
        torch.ones(3).to("meta", non_blocking=True)
        for waits in (
            lambda: torch.where(x > 0, x, torch.tensor(0.0)),
            lambda: torch.ones(3).to("meta"),
            lambda: torch.tensor([1.0], device="meta"),
        ):
            with pytest.raises(AssertionError, match="has the host wait"):
                waits()
    for reads in (lambda: x.sum().item(), lambda: bool((x > 0).all()), x.tolist):
        with pytest.raises((RuntimeError, NotImplementedError)):
            reads()


@pytest.mark.parametrize("name", [n for n in ESTIMATORS if n.startswith(("cg", "minres", "gmres", "normal"))])
def test_an_early_exit_is_what_looks(name: str) -> None:
    """Without the option these would fail on the meta device: the test above tests something."""
    estimator = ESTIMATORS[name]
    assert isinstance(estimator, mf.Implicit)
    looking = replace(estimator, solver=replace(estimator.solver, early_exit=True))
    model = on_meta(mlp())
    with pytest.raises(NotImplementedError, match="meta tensor"):
        meta_step(model, looking(mf.gradient_descent(model.loss, lr=0.1, prox=1.0, steps=3)))


@pytest.mark.parametrize("name", [*SOLVERS, "torchopt"])
def test_an_inner_solver_without_early_exit_finds_the_same(name: str) -> None:
    model = convex()

    def make(early_exit: bool) -> mf.Inner:
        options: dict[str, Any] = {"prox": 1.5, "tolerance": 0.05, "early_exit": early_exit}
        if name == "torchopt":
            torchopt = pytest.importorskip("torchopt")
            return mf.optimizer_loop(model.loss, torchopt.sgd(lr=0.4), steps=60, **options)
        steps = {"newton-cg": {"steps": 8, "solver": mf.CG(4)}, "nesterov": {"steps": 60, "smoothness": 4.0}}
        makers: dict[str, Any] = {"newton-cg": mf.newton_cg, "nesterov": mf.nesterov, "adam": mf.adam}
        given = steps.get(name, {"steps": 60, "lr": 0.4})
        return makers.get(name, mf.gradient_descent)(model.loss, **given, **options)

    calls = [0, 0]
    found: list[Tensor] = []
    for k, early_exit in enumerate((True, False)):
        inner = make(early_exit)
        objective = inner.objective
        assert objective is not None

        def counted(phi: Any, args: Any, k: int = k, objective: Any = objective) -> Tensor:
            calls[k] += 1
            return objective(phi, args)

        solve = mf.FirstOrder()(replace(inner, objective=counted)) if inner.step else None
        solve = solve or mf.Implicit()(replace(inner, objective=counted))
        found.append(torch.func.vmap(solve, in_dims=(None, 0))(model.theta, model.support))
    assert torch.equal(*found)
    assert 0 < calls[0] < calls[1], "the loop did not end early, so that the comparison says nothing"


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout(0.5)
        )
        self.head = nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))


@pytest.mark.parametrize("buffers", ["batch", "frozen", "task"])
@pytest.mark.parametrize("randomness", ["same", "different"])
def test_the_backward_of_the_meta_optimizer_does_not_have_the_host_wait(
    buffers: Any, randomness: Any
) -> None:
    net = Dropping().to("meta")
    meta = mf.MetaOptimizer(
        net,
        F.cross_entropy,
        torch.optim.SGD(net.parameters(), lr=0.1),
        lambda p: mf.gradient_descent(**p, lr=0.1, steps=2),
        clip=1.0,
        buffers=buffers,
        randomness=randomness,
        step_randomness="different",
    )
    shots = torch.ones(2, 6, 1, 6, 6, device="meta"), torch.ones(2, 6, device="meta", dtype=torch.long)
    meta.backward((shots, shots))  # the first one checks whether the loss depends on the parameters
    with NothingMoves(), NothingIsMade():
        meta.backward((shots, shots))


@pytest.mark.parametrize("bad", [None, 1, "no"])
def test_an_early_exit_is_a_yes_or_a_no(bad: Any) -> None:
    def loss(phi: Tensor) -> Tensor:
        return phi.sum()

    for make in (
        lambda: mf.CG(early_exit=bad),
        lambda: mf.GMRES(early_exit=bad),
        lambda: mf.MINRES(early_exit=bad),
        lambda: mf.NormalCG(early_exit=bad),
        lambda: mf.gradient_descent(loss, lr=0.1, steps=1, early_exit=bad),
        lambda: mf.newton_cg(loss, early_exit=bad),
    ):
        with pytest.raises(TypeError, match="early_exit: expected True or False"):
            make()


@on_devices("cuda")
@pytest.mark.parametrize(("make", "name"), SIGHTS)
def test_a_gpu_does_not_see_the_host_wait(device: str, make: Callable[[], Model], name: str) -> None:
    model = make().to(device, torch.float32)
    inner = mf.gradient_descent(model.loss, lr=0.1, prox=1.0, steps=2, tolerance=1e-3, **QUIET)
    adapt = ESTIMATORS[name](inner)
    meta_step(model, adapt)
    with without_waiting():
        meta_step(model, adapt)
