"""Everything that touches tensors, on a GPU: the same figures as on the CPU, and as dense algebra has them.

What is cheap runs on the CPU as well, so that the tests themselves are known to work.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap

import metafunc as mf
from metafunc import bayes, tree
from metafunc.interop import higher, learn2learn, torchopt
from metafunc.linear import LinearSolver
from tests.dense import logistic
from tests.devices import on_devices
from tests.linear.systems import SOLVERS, flags
from tests.linear.test_solvers import SYSTEMS, right_hand_side
from tests.models import mlp
from tests.tasks import close, logistic_loss, options, tensors

K = 4
BOTH = on_devices("cpu", "cuda")
CLOSED_FORMS: dict[str, tuple[mf.Estimator, Callable[[Any], Any]]] = {
    "explicit": (mf.Explicit(), lambda task: task.explicit()[0]),
    "truncated": (mf.Truncated(2), lambda task: task.truncated(2)[0]),
    "binomial": (mf.Binomial(2), lambda task: task.binomial(2)[0]),
    "implicit": (mf.Implicit(mf.Direct()), lambda task: task.implicit()),
    "cg": (mf.Implicit(mf.CG(2, rtol=0.0)), lambda task: task.krylov(2)),
    "reptile": (mf.Reptile(), lambda task: task.reptile()),
}


def at(device: str, values: Any) -> Any:
    return tree.map(lambda x: x.to(device) if isinstance(x, Tensor) else x, values)


def agree(device: str, found: Any, expected: Any, rtol: float) -> None:
    """Both on their devices, and equal."""
    assert {x.device.type for x in tree.leaves(found)} == {device}
    ours, theirs = (torch.cat([x.flatten().cpu() for x in tree.leaves(t)]) for t in (found, expected))
    assert theirs.norm() > 1e-3
    close(ours, theirs, rtol)


@BOTH
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_forms(device: str, name: str) -> None:
    task = logistic(steps=K, prox=0.8)
    theta, support, query = at(device, tensors(task))
    estimator, expected = CLOSED_FORMS[name]
    adapt = estimator(mf.gradient_descent(logistic_loss, **options(task)))
    found = grad(lambda t: logistic_loss(adapt(t, support), query))(theta)
    agree(device, found, torch.from_numpy(expected(task)), 1e-9)


@BOTH
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_a_table_of_linear_systems(device: str, solver: LinearSolver) -> None:
    matrices = torch.stack([m for name, m in SYSTEMS.items() if name != "kappa 1e6"])
    b = torch.stack([right_hand_side(name, m) for name, m in SYSTEMS.items() if name != "kappa 1e6"])

    def all_at_once(matrices: Tensor, b: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return vmap(lambda m, r: solver.solve(lambda w: m @ w, r))(matrices, b)

    x, stats = at("cpu", all_at_once(matrices.to(device), b.to(device)))
    y, others = all_at_once(matrices, b)
    for i in range(len(b)):
        own, theirs = ({k: v[i] for k, v in s.items()} for s in (stats, others))
        assert flags(own) == flags(theirs)
        if not flags(theirs) and b[i].any():
            close(x[i] / b[i].abs().max(), y[i] / b[i].abs().max(), 1e-6)


class Net(nn.Module):
    def __init__(self, drop: float = 0.3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus(), nn.AvgPool2d(2)
        )
        self.drop, self.head = nn.Dropout(drop), nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.body(x).flatten(1)))


def shots(count: int = 4, dtype: torch.dtype = torch.float64) -> dict[str, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, count, 6, 1, 6, 6, generator=draw, dtype=torch.float64).to(dtype)
    y = torch.randint(3, (2, count, 6), generator=draw)
    return {"support": (x[0], y[0]), "query": (x[1], y[1])}


@BOTH
@pytest.mark.parametrize(
    "curvature",
    [
        *(mf.Exact(mode) for mode in ("auto", "reverse", "forward")),
        mf.CentralDifference(),
        mf.GaussNewton(),
    ],
    ids=repr,
)
def test_modes_of_curvature(device: str, curvature: Any) -> None:
    model = mf.functional(Net(drop=0.0), F.cross_entropy)
    loss = mf.Composed(lambda p, b: model.outputs(p, b[0]), lambda out, b: F.cross_entropy(out, b[1]))
    adapt = mf.Truncated(2, curvature)(mf.gradient_descent(loss, lr=0.1, prox=1.0, steps=3))
    meta_grad = mf.meta_grad(loss, adapt, tasks=mf.Vmap())
    problem = model.theta, shots()["support"], shots()["query"]
    found = meta_grad(*at(device, problem)).grad
    agree(device, found, meta_grad(*problem).grad, 1e-5 if curvature == mf.CentralDifference() else 1e-9)


def learner(device: str, dtype: torch.dtype = torch.float64, **settings: Any) -> mf.MetaOptimizer:
    torch.manual_seed(0)
    net = Net().to(torch.float64).to(device, dtype)
    given: dict[str, Any] = {"estimator": mf.Explicit(), "randomness": "different"} | settings
    estimator = given.pop("estimator")
    return mf.MetaOptimizer(
        net,
        F.cross_entropy,
        torch.optim.Adam(net.parameters(), lr=0.01),
        lambda p: mf.gradient_descent(**p, lr=0.1, steps=2, prox=1.0),
        estimator,
        metrics={"accuracy": lambda out, y: (out.argmax(-1) == y).to(out.dtype).mean()},
        clip=1.0,
        **given,
    )


@on_devices("cuda")
@pytest.mark.parametrize("steps", ["same", "different"])
@pytest.mark.parametrize("randomness", ["same", "different"])
@pytest.mark.parametrize("buffers", ["batch", "frozen", "task"])
def test_a_step_is_that_of_the_cpu(device: str, buffers: Any, randomness: Any, steps: Any) -> None:
    """Dropout too: its numbers are a function of a key."""
    policy = {"buffers": buffers, "randomness": randomness, "step_randomness": steps}
    there, here = learner(device, **policy), learner("cpu", **policy)
    for estimator_step in range(2):
        found, expected = there.step(at(device, shots())), here.step(shots())
        close(found.loss.cpu(), expected.loss, 1e-9)
        assert found.metrics["accuracy"].cpu() == expected.metrics["accuracy"], estimator_step
    for p, q in zip(there.model.module.parameters(), here.model.module.parameters(), strict=True):
        close(p.detach().cpu(), q.detach(), 1e-7)


@BOTH
def test_a_run_goes_on_to_the_bit(device: str) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        whole, first, rest = (learner(device) for _ in range(3))
        tasks = at(device, shots())
        whole.step(tasks)
        first.step(tasks)
        rest.load_state_dict(copy.deepcopy(first.state_dict()))
        for meta in (whole, rest):
            meta.step(tasks)
    finally:
        torch.use_deterministic_algorithms(False)
    for p, q in zip(whole.model.module.parameters(), rest.model.module.parameters(), strict=True):
        assert p.device.type == device
        assert torch.equal(p, q)
    scores = whole.evaluate(tasks), rest.evaluate(tasks)
    assert torch.equal(scores[0]["loss"], scores[1]["loss"])
    assert next(whole.adapt(tree.index(tasks["support"], 0)).parameters()).device.type == device


@BOTH
@pytest.mark.parametrize("where", ["data set", "sampler"])
def test_episodes(device: str, where: str) -> None:
    images = mf.data.glyphs().split("val")
    given = {"rotations": True, "normalize": ((0.5,), (0.25,))}
    expected = mf.data.Episodes(images, 3, 2, 2, **given).sample(4, torch.Generator().manual_seed(0))
    sampler = (
        mf.data.Episodes(images, 3, 2, 2, device=device, **given)
        if where == "sampler"
        else mf.data.Episodes(images.to(device), 3, 2, 2, **given)
    )
    found = sampler.sample(4, torch.Generator().manual_seed(0))
    for part in ("support", "query"):
        assert {x.device.type for x in found[part]} == {device}
        assert torch.equal(found[part][1].cpu(), expected[part][1])
        close(found[part][0].cpu(), expected[part][0], 1e-6)


@on_devices("cuda")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_mixed_precision(device: str, dtype: torch.dtype, record_property: Any) -> None:
    torch.set_default_dtype(torch.float32)
    grads: list[Tensor] = []
    for autocast in (None, dtype):
        meta = learner(device, torch.float32, autocast=autocast)
        meta.backward(at(device, shots(dtype=torch.float32)))
        grads.append(
            torch.cat([p.grad.flatten() for p in meta.model.module.parameters() if p.grad is not None])
        )
    error = float((grads[1] - grads[0]).norm() / grads[0].norm())
    record_property("error", f"{error:.1e}")
    assert 1e-5 < error < 0.15


@on_devices("cuda")
def test_torch_compile(device: str) -> None:
    model = mlp().to(device, torch.float64)
    adapt = mf.Explicit()(mf.gradient_descent(model.loss, lr=0.1, steps=2))
    each = vmap(grad(lambda t, s, q: model.loss(adapt(t, s), q)), in_dims=(None, 0, 0))
    args = model.theta, model.support, model.query
    torch._dynamo.reset()
    agree(device, torch.compile(each)(*args), each(*args), 1e-9)


INNER_STEPS = 2


def by_learn2learn(net: nn.Module, support: Any, query: Any) -> Tensor:
    clone = learn2learn.MAML(net, 0.1).clone()
    for _ in range(INNER_STEPS):
        clone.adapt(F.mse_loss(clone(support[0]), support[1]))
    return F.mse_loss(clone(query[0]), query[1])


def by_higher(net: nn.Module, support: Any, query: Any) -> Tensor:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with higher.innerloop_ctx(net, optimizer, copy_initial_weights=False) as (fast, inner):
        for _ in range(INNER_STEPS):
            inner.step(F.mse_loss(fast(support[0]), support[1]))
        return F.mse_loss(fast(query[0]), query[1])


def by_torchopt(net: nn.Module, support: Any, query: Any) -> Tensor:
    inner = torchopt.MetaSGD(net, lr=0.1)
    for _ in range(INNER_STEPS):
        inner.step(F.mse_loss(net(support[0]), support[1]))
    return F.mse_loss(net(query[0]), query[1])


@BOTH
@pytest.mark.parametrize("drop_in", [by_learn2learn, by_higher, by_torchopt])
def test_drop_ins(device: str, drop_in: Any) -> None:
    if drop_in is by_torchopt:
        pytest.importorskip("torchopt")
    net = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1))
    x = torch.randn(2, 6, 1)
    support, query = ((z, torch.sin(z)) for z in x)
    loss = mf.functional(net, F.mse_loss)
    adapt = mf.Explicit()(mf.gradient_descent(loss, lr=0.1, steps=INNER_STEPS))
    expected = mf.meta_grad(loss, adapt)(loss.theta, support, query).grad
    net = net.to(device)
    leaves = list(net.parameters())
    found = torch.autograd.grad(drop_in(net, at(device, support), at(device, query)), leaves)
    agree(device, list(found), list(expected.values()), 1e-9)


@BOTH
def test_a_bayesian_step(device: str) -> None:
    torch.manual_seed(0)
    prior = bayes.Prior(nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)).to(device), 0.01)
    meta = bayes.BayesianLearner(
        prior,
        F.mse_loss,
        torch.optim.SGD(prior.parameters(), lr=0.01),
        lambda p: mf.gradient_descent(**p, lr=0.05, steps=2),
        mf.Explicit(),
        kl_weight=0.1,
        samples=2,
        test_samples=2,
    )
    tasks = mf.data.Sinusoids(shots=5, queries=6, dtype=torch.float64, device=device)
    drawn = tasks.sample(3, torch.Generator().manual_seed(0))
    losses = [meta.step(drawn).loss for _ in range(3)]
    assert all(x.device.type == device and torch.isfinite(x) for x in losses)
    assert meta.predict(drawn).device.type == device


@on_devices("cuda")
def test_another_stream(device: str) -> None:
    model = mlp().to(device, torch.float64)
    meta_grad = mf.meta_grad(
        model.loss, mf.Binomial(2)(mf.gradient_descent(model.loss, lr=0.1, steps=3)), tasks=mf.Vmap()
    )
    expected = meta_grad(model.theta, model.support, model.query).grad
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = meta_grad(model.theta, model.support, model.query).grad
    torch.cuda.current_stream().wait_stream(stream)
    agree(device, found, expected, 1e-12)


@on_devices("meta", "cuda")
def test_tasks_on_another_device_are_named(device: str) -> None:
    with pytest.raises(
        ValueError, match=rf"expected tensors on {device}.*, got .* on cpu.*Episodes\(device="
    ) as caught:
        learner(device).step(shots())
    assert isinstance(caught.value.__cause__, RuntimeError)
