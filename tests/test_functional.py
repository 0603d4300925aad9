"""mf.functional: modules of many kinds, buffers, dropout by key, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap

import metafunc as mf
from metafunc import tree
from metafunc.philox import uniform
from metafunc.randomness import Keyed
from tests.tasks import close


def classification(tasks: int = 3, count: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(tasks, count, 4), torch.randint(3, (tasks, count))


def test_the_loss_is_that_of_the_module() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    model = mf.functional(net, F.cross_entropy)
    x, y = (z[0] for z in classification())
    assert torch.equal(model(model.theta, (x, y)), F.cross_entropy(net(x), y))
    moved = {name: p + 1 for name, p in model.theta.items()}
    assert not torch.equal(model(moved, (x, y)), model(model.theta, (x, y)))
    F.cross_entropy(net(x), y).backward()
    found = grad(model)(model.theta, (x, y))
    for name, p in net.named_parameters():
        assert p.grad is not None
        close(found[name], p.grad, 1e-12)


class Several(nn.Module):
    """Several inputs, by position and by keyword; tied and frozen parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, a: Tensor, b: Tensor, *, scale: float | Tensor = 1.0) -> Tensor:
        return scale * self.two(torch.tanh(self.one(a))) + b * self.frozen


@pytest.mark.parametrize("inputs", ["positional", "keyword"])
def test_inputs_ties_and_frozen_parameters(inputs: str) -> None:
    net = Several()
    model = mf.functional(net, F.mse_loss)
    assert set(model.theta) == {"one.weight", "one.bias", "two.bias"}
    a, b, y = torch.randn(3, 7, 3)
    given: Any = (a, b) if inputs == "positional" else {"b": b, "a": a, "scale": torch.tensor(2.0)}
    factor = 1.0 if inputs == "positional" else 2.0
    F.mse_loss(net(a, b, scale=factor), y).backward()
    found = grad(model)(model.theta, (given, y))
    for name, p in net.named_parameters():
        if p.requires_grad:
            assert p.grad is not None
            close(found[name], p.grad, 1e-12)


def test_a_part_is_adapted_by_name_or_by_module() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    by_module, by_name = (mf.functional(net, F.cross_entropy, adapt=part) for part in (net[2], "2"))
    one = mf.functional(net, F.cross_entropy, adapt=["2.bias"])
    assert by_module.adapted == by_name.adapted == ("2.weight", "2.bias")
    assert one.adapted == ("2.bias",)
    x, y = (z[0] for z in classification())
    theta = by_name.theta
    adapt = mf.Explicit()(mf.gradient_descent(**by_name.problem, lr=0.3, steps=3))
    phi = adapt(theta, (x, y))
    assert set(phi) == {"2.weight", "2.bias"}

    leaves = {name: p.clone().requires_grad_() for name, p in theta.items()}
    head = {name: leaves[name] for name in phi}
    for _ in range(3):
        loss = F.cross_entropy(torch.func.functional_call(net, {**leaves, **head}, (x,)), y)
        slopes = torch.autograd.grad(loss, list(head.values()), create_graph=True)
        head = {name: p - 0.3 * g for (name, p), g in zip(head.items(), slopes, strict=True)}
    outer = F.cross_entropy(torch.func.functional_call(net, {**leaves, **head}, (2 * x,)), y)
    expected = torch.autograd.grad(outer, list(leaves.values()))
    found = grad(lambda t: by_name.objective(adapt(t, (x, y)), t, (2 * x, y)))(theta)
    for g, name in zip(expected, leaves, strict=True):
        assert g.norm() > 1e-4
        close(found[name], g, 1e-11)


def norm_net() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2)
    return net


@pytest.mark.parametrize("buffers", ["batch", "frozen"])
def test_norms_normalise_as_declared_and_nothing_is_written(buffers: Any) -> None:
    net = norm_net()
    before = {name: b.clone() for name, b in net.named_buffers()}
    model = mf.functional(net, F.cross_entropy, buffers=buffers)
    x, y = classification()
    adapt = mf.Explicit()(mf.gradient_descent(**model.problem, lr=0.3, steps=2))

    def meta_loss(theta: Any, batch: Any) -> Tensor:
        return model(adapt(theta, batch), batch)

    mapped = vmap(grad(meta_loss), in_dims=(None, 0))(model.theta, (x, y))
    looped = [grad(meta_loss)(model.theta, (x[i], y[i])) for i in range(3)]
    for name in mapped:
        for i in range(3):
            assert torch.allclose(mapped[name][i], looped[i][name], atol=1e-12)
    for name, b in net.named_buffers():
        assert torch.equal(b, before[name])
    assert net.training and net[1].training and net[1].track_running_stats
    hidden = net[0](x[0])
    statistics = (
        (hidden.mean(0), hidden.var(0, unbiased=False))
        if buffers == "batch"
        else (net[1].running_mean, net[1].running_var)
    )
    normal = (hidden - statistics[0]) / (statistics[1] + net[1].eps).sqrt() * net[1].weight + net[1].bias
    close(model.outputs(model.theta, x[0]), net[3](torch.tanh(normal)).detach(), 1e-12)


def test_eval_mode_has_to_be_meant() -> None:
    net = norm_net().eval()
    model = mf.functional(net, F.cross_entropy)
    x, y = (z[0] for z in classification())
    with pytest.raises(
        ValueError, match="got a BatchNorm1d in eval mode, which would use its running statistics"
    ):
        model(model.theta, (x, y))
    frozen = mf.functional(net, F.cross_entropy, buffers="frozen")
    assert torch.equal(frozen(frozen.theta, (x, y)), F.cross_entropy(net(x), y))


def test_each_part_may_have_a_policy_of_its_own() -> None:
    """A frozen stem, in eval mode as it may be, beside a head that is trained."""
    net = nn.Sequential(norm_net(), nn.BatchNorm1d(3))
    net[0].eval()
    x, y = classification()
    for rest in ("batch", "task"):
        model = mf.functional(net, F.cross_entropy, buffers={"0": "frozen", "": rest})  # type: ignore[dict-item]
        hidden = net[0](x[0])
        close(
            model.outputs(model.theta, x[0]), F.batch_norm(hidden, None, None, training=True).detach(), 1e-10
        )
        assert net.training and not net[0].training and not net[0][1].training
    other = F.batch_norm(net[0](x[1]), hidden.mean(0).detach(), hidden.var(0).detach())
    close(model.outputs(model.theta, x[1], like=x[0]), other.detach(), 1e-10)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    inner = lambda p: mf.gradient_descent(**p, lr=0.1, steps=2)  # noqa: E731
    buffers: Any = {"0": "frozen", "": "task"}
    meta = mf.MetaOptimizer(net, F.cross_entropy, optimizer, inner, buffers=buffers)
    before = net[0][1].running_mean.clone()
    assert meta.step(((x, y), (x, y))).loss.isfinite()
    adapted = meta.adapt((x[0], y[0]))
    assert torch.equal(adapted[0][1].running_mean, before)
    assert not torch.equal(adapted[1].running_mean, torch.zeros(3))
    with pytest.raises(ValueError, match=r"buffers: expected names of modules: '', '0', .*, got 'stem'"):
        mf.functional(net, F.cross_entropy, buffers={"stem": "frozen"})
    with pytest.raises(ValueError, match='expected norms by "batch" or norms by "task", beside frozen ones'):
        mf.functional(net, F.cross_entropy, buffers={"0": "task"})


class Counter(nn.Module):
    """A module with a state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x)


def test_a_buffer_that_is_written_is_refused() -> None:
    model = mf.functional(Counter(), F.cross_entropy)
    x, y = (z[0] for z in classification())
    with pytest.raises(ValueError, match="got one that wrote to the buffer 'calls'"):
        model(model.theta, (x, y))


def dropout_net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 40), nn.Dropout(0.4), nn.Tanh(), nn.Linear(40, 3))


@pytest.mark.parametrize(
    "estimator", [mf.Explicit(), mf.Explicit(checkpoint=True), mf.Truncated(3), mf.Binomial(3)], ids=repr
)
def test_dropout_by_key_is_the_same_in_every_run(estimator: mf.Estimator) -> None:
    model = mf.functional(dropout_net(), F.cross_entropy, randomness="different")
    x, y = classification()
    keys = torch.tensor([11, 12, 13])
    adapt = estimator(mf.gradient_descent(**model.problem, lr=0.3, steps=3))

    def meta_loss(theta: Any, batch: Any, key: Tensor) -> Tensor:
        return model(adapt(theta, batch, key), batch, key)

    mapped = vmap(grad(meta_loss), in_dims=(None, 0, 0))(model.theta, (x, y), keys)
    for i in range(3):
        alone = grad(meta_loss)(model.theta, (x[i], y[i]), keys[i])
        exact = mf.Explicit()(adapt.inner)
        reference = grad(lambda t, a=exact, i=i: model(a(t, (x[i], y[i]), keys[i]), (x[i], y[i]), keys[i]))(
            model.theta
        )
        for name in alone:
            close(mapped[name][i], alone[name], 1e-10)
            close(alone[name], reference[name], 1e-10)
    other = grad(meta_loss)(model.theta, (x[0], y[0]), keys[1])
    assert (other["3.weight"] - mapped["3.weight"][0]).norm() > 1e-3


def test_dropout_drops_what_it_says() -> None:
    net = nn.Dropout(0.3)
    model = mf.functional(nn.Sequential(nn.Linear(1, 1), net), F.mse_loss, randomness="same")
    parameters = {"0.weight": torch.ones(1, 1), "0.bias": torch.zeros(1)}
    outputs = model.outputs(parameters, torch.ones(20000, 1), torch.tensor(5))
    values, counts = outputs.unique(return_counts=True)
    close(values, torch.tensor([0.0, 1 / 0.7]), 1e-12)
    assert abs(float(counts[0]) / 20000 - 0.3) < 0.015
    maps = mf.functional(nn.Sequential(nn.Conv2d(1, 8, 1), nn.Dropout2d(0.5)), F.mse_loss, randomness="same")
    found = maps.outputs(maps.theta, torch.rand(4, 1, 5, 5) + 1, torch.tensor(3))
    dropped = (found == 0).flatten(2)
    assert (dropped.all(2) == dropped.any(2)).all()
    assert 4 < int(dropped.all(2).sum()) < 28
    assert torch.equal(
        maps.module.eval()(torch.ones(1, 1, 5, 5)), maps.outputs(maps.theta, torch.ones(1, 1, 5, 5))
    )


def test_the_numbers_look_uniform_and_independent() -> None:
    like = torch.ones(1, dtype=torch.float64)
    shape = torch.Size((100, 100))
    draws = torch.stack(
        [uniform(torch.tensor(k), d, shape, like).flatten() for k in (1, 2, 2**32 + 1, 1) for d in (1, 2)]
    )
    assert torch.equal(draws[:2], draws[6:])
    assert draws.min() >= 0 and draws.max() < 1
    for row in draws:
        counts = torch.histc(row, 20, 0, 1)
        assert ((counts - 500) ** 2 / 500).sum() < 50  # chi squared with 19 degrees of freedom: 43.8 at 0.1 %
        assert abs(torch.corrcoef(torch.stack([row[1:], row[:-1]]))[0, 1]) < 0.04
    assert torch.corrcoef(draws[:6]).fill_diagonal_(0).abs().max() < 0.04


def test_randomness_has_to_be_declared() -> None:
    x, y = (z[0] for z in classification())
    silent = mf.functional(dropout_net(), F.cross_entropy)
    for model, key in (
        (silent, torch.tensor(1)),
        (mf.functional(dropout_net(), F.cross_entropy, randomness="same"), None),
    ):
        with pytest.raises(ValueError, match='dropout: expected randomness="same" or "different", and a key'):
            model(model.theta, (x, y), key)
    noisy = mf.functional(nn.Sequential(nn.Linear(4, 3), nn.RReLU()), F.cross_entropy, randomness="same")
    with pytest.raises(ValueError, match="got rrelu, which draws random numbers from a generator"):
        noisy(noisy.theta, (x, y), torch.tensor(1))


@pytest.mark.parametrize("kind", ["transformer", "lstm", "gru"])
def test_sequence_models(kind: str) -> None:
    """Attention takes its plain form where a second derivative asks for it; recurrent nets go task by task."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core: Any = {
                "transformer": lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
                "lstm": lambda: nn.LSTM(4, 4, batch_first=True),
                "gru": lambda: nn.GRU(4, 4, batch_first=True),
            }[kind]()

        def forward(self, x: Tensor) -> Tensor:
            out = self.core(x)
            return (out[0] if isinstance(out, tuple) else out)[:, -1]

    model = mf.functional(Last(), F.mse_loss)
    x, y = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 4)
    adapt = mf.Explicit()(mf.gradient_descent(**model.problem, lr=0.2, steps=2))
    found = mf.meta_grad(model, adapt, tasks=mf.Loop())(model.theta, (x, y), (x, y)).grad
    differenced = mf.Explicit(curvature=mf.CentralDifference(displacement=1e-4))(adapt.inner)
    expected = mf.meta_grad(model, differenced, tasks=mf.Loop())(model.theta, (x, y), (x, y)).grad
    close(tree.ravel(found)[0], tree.ravel(expected)[0], 1e-5)
    if kind != "transformer":
        with pytest.raises(NotImplementedError, match=r"got an (LSTM|GRU) under vmap. Use tasks=mf.Loop\(\)"):
            mf.meta_grad(model, adapt, tasks=mf.Vmap())(model.theta, (x, y), (x, y))
    else:
        mapped = mf.meta_grad(model, adapt, tasks=mf.Vmap())(model.theta, (x, y), (x, y)).grad
        close(tree.ravel(mapped)[0], tree.ravel(found)[0], 1e-10)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: mf.functional(3, F.mse_loss), TypeError, "module: expected an nn.Module, got int 3"),
        (
            lambda: mf.functional(nn.Linear(1, 1), 3),
            TypeError,
            r"loss_fn: expected a function loss_fn\(outputs, targets\)",
        ),
        (
            lambda: mf.functional(nn.ReLU(), F.mse_loss),
            ValueError,
            "at least one parameter that requires a gradient, got a ReLU",
        ),
        (
            lambda: mf.functional(nn.Linear(1, 1), F.mse_loss, adapt="head"),
            ValueError,
            "adapt: expected parameters or submodules.*got 'head'. Choose among weight, bias",
        ),
        (
            lambda: mf.functional(nn.Linear(1, 1), F.mse_loss, adapt=nn.Linear(1, 1)),
            ValueError,
            "got 'Linear'",
        ),
        (
            lambda: mf.functional(nn.Linear(1, 1), F.mse_loss, buffers="x"),
            ValueError,
            "buffers: expected 'batch' or 'frozen'",
        ),
        (
            lambda: mf.functional(nn.Linear(1, 1), F.mse_loss, randomness="x"),
            ValueError,
            "randomness: expected",
        ),
        (
            lambda: mf.functional(nn.Linear(1, 1), F.mse_loss)({}, torch.ones(1)),
            ValueError,
            r"batch: expected a pair \(inputs, targets\), got float64\[1\] on cpu",
        ),
    ],
)
def test_bad_input(make: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        make()


def test_every_dropout_of_a_pass_draws_anew() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5), nn.Dropout(0.5))
    model = mf.functional(net, F.mse_loss, randomness="same")
    ones = {"0.weight": torch.ones(1, 1), "0.bias": torch.zeros(1)}
    outputs = model.outputs(ones, torch.ones(4000, 1), torch.tensor(5))
    assert abs(float((outputs > 0).double().mean()) - 0.25) < 0.03


@pytest.mark.parametrize(
    "estimator", [mf.Explicit(), mf.Explicit(checkpoint=True), mf.Truncated(3), mf.Binomial(3)], ids=repr
)
def test_steps_may_draw_different_numbers(estimator: mf.Estimator) -> None:
    """Against a loop by hand that gives step k a key of its own, looped and mapped."""
    model = mf.functional(dropout_net(), F.cross_entropy, randomness="different")
    x, y = classification()
    keys = torch.tensor([11, 12, 13])
    inner = mf.with_step_keys(mf.gradient_descent(**model.problem, lr=0.3, steps=3))
    adapt = estimator(inner)

    def meta_loss(theta: Any, batch: Any, key: Tensor) -> Tensor:
        return model(adapt(theta, batch, key), batch, key)

    mapped = vmap(grad(meta_loss), in_dims=(None, 0, 0))(model.theta, (x, y), keys)
    for i in range(3):
        leaves = {name: p.clone().requires_grad_() for name, p in model.theta.items()}
        phi = leaves
        for k in range(3):
            loss = model(phi, (x[i], y[i]), mf.fold_in(keys[i], k))
            slopes = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
            phi = {name: p - 0.3 * g for (name, p), g in zip(phi.items(), slopes, strict=True)}
        expected = torch.autograd.grad(model(phi, (x[i], y[i]), keys[i]), list(leaves.values()))
        alone = grad(meta_loss)(model.theta, (x[i], y[i]), keys[i])
        for g, name in zip(expected, leaves, strict=True):
            close(alone[name], g, 1e-10)
            close(mapped[name][i], g, 1e-10)


def test_what_has_no_steps_to_tell_apart() -> None:
    model = mf.functional(dropout_net(), F.cross_entropy, randomness="same")
    with pytest.raises(TypeError, match="with_step_keys: expected an inner problem solved by steps"):
        mf.with_step_keys(mf.newton_cg(**model.problem, prox=1.0))
    with pytest.raises(ValueError, match=r"tolerance: expected 0 where steps differ at random, got 0\.1"):
        mf.with_step_keys(mf.gradient_descent(**model.problem, lr=0.1, steps=2, tolerance=0.1))
    with pytest.raises(TypeError, match="with_step_keys: expected an inner problem"):
        mf.with_step_keys(F.relu)  # type: ignore[arg-type]


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False, is_causal=False)[0]


class Drawing(nn.Module):
    """A linear layer and something random after it."""

    def __init__(self, draw: Any) -> None:
        super().__init__()
        self.inner, self.draw = nn.Linear(4, 4), draw

    def forward(self, x: Tensor) -> Tensor:
        return self.draw(self.inner(x))


OWN = torch.Generator().manual_seed(0)
DRAWING: dict[str, Any] = {
    "attention": Attention,
    "attention with weights": lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.5, batch_first=True),
    "recurrent": lambda: Drawing(nn.LSTM(4, 4, 2, dropout=0.5)),
    "randn": lambda: Drawing(lambda h: h + torch.randn(h.shape)),
    "randint": lambda: Drawing(lambda h: h * torch.randint(0, 2, h.shape)),
    "randperm": lambda: Drawing(lambda h: h[:, torch.randperm(4)]),
    "multinomial": lambda: Drawing(lambda h: h * torch.multinomial(torch.ones(4), 4)),
    "exponential": lambda: Drawing(lambda h: h * torch.empty(h.shape).exponential_()),
    "normal": lambda: Drawing(lambda h: h + torch.normal(0.0, 1.0, h.shape)),
    "gumbel": lambda: Drawing(F.gumbel_softmax),
    "alpha dropout": lambda: Drawing(nn.AlphaDropout(0.5)),
    "aten dropout": lambda: Drawing(lambda h: torch.ops.aten.native_dropout(h, 0.5, True)[0]),
    "fractional pooling": lambda: Drawing(
        lambda h: F.fractional_max_pool2d(h[None], 2, output_ratio=(0.6, 0.6)).mean() + h
    ),
    "its own generator": lambda: Drawing(lambda h: h + torch.randn(h.shape, generator=OWN)),
    "distribution": lambda: Drawing(lambda h: h + torch.distributions.Normal(0.0, 1.0).sample(h.shape)),
}


@pytest.mark.parametrize("kind", DRAWING)
def test_what_draws_is_seen_by_the_generators(kind: str) -> None:
    """Refused unless a key is to be drawn from; and then either drawn from the key or refused by name."""
    module = DRAWING[kind]()
    x = torch.randn(3, 5, 4)
    before = torch.get_rng_state()
    silent = mf.functional(module, F.mse_loss)
    with pytest.raises(
        ValueError, match=r"draws random numbers from a generator|dropout: expected randomness="
    ):
        silent.outputs(silent.theta, x)
    assert torch.equal(before, torch.get_rng_state())
    keyed = mf.functional(module, F.mse_loss, randomness="different")
    if not kind.startswith("attention"):
        with pytest.raises(ValueError, match=r"got \w+, which draws random numbers from a generator"):
            keyed.outputs(keyed.theta, x, torch.tensor(7))
        return
    found = [keyed.outputs(keyed.theta, x, torch.tensor(k)).detach() for k in (7, 7, 8)]
    assert torch.equal(found[0], found[1])
    assert (found[0] - found[2]).norm() > 1e-2


def test_attention_without_dropout_is_torchs() -> None:
    """The form in which dropout is by key, with a dropout that drops next to nothing."""
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    mask = torch.rand(3, 5) > 0.2
    mask[:, 0] = True
    cases: list[dict[str, Any]] = [
        {"enable_gqa": True},
        {"enable_gqa": True, "scale": 0.3},
        {"enable_gqa": True, "attn_mask": mask},
        {"enable_gqa": True, "attn_mask": torch.randn(3, 5)},
        {"enable_gqa": True, "is_causal": True},
    ]
    for options in cases:
        with Keyed(torch.tensor(1)):
            found = F.scaled_dot_product_attention(q, k, v, dropout_p=1e-300, **options)
        close(found, F.scaled_dot_product_attention(q, k, v, **options), 1e-12)


def test_attention_drops_weights_as_often_as_it_says() -> None:
    q = torch.zeros(1, 1, 400, 4)
    v = torch.eye(50)[None, None]
    with Keyed(torch.tensor(1)):
        weights = F.scaled_dot_product_attention(q, torch.zeros(1, 1, 50, 4), v, dropout_p=0.3)
    assert abs(float((weights == 0).double().mean()) - 0.3) < 0.02
    close(weights.max(), torch.tensor(1 / 50 / 0.7), 1e-12)


SHAPES = [
    (nn.Dropout1d, (8, 6), 1),
    (nn.Dropout1d, (4, 8, 6), 2),
    (nn.Dropout2d, (4, 8, 6), 2),
    (nn.Dropout2d, (4, 8, 3, 3), 2),
    (nn.Dropout3d, (8, 2, 3, 3), 1),
    (nn.Dropout3d, (4, 8, 2, 3, 3), 2),
]


@pytest.mark.filterwarnings("ignore:dropout2d")
@pytest.mark.parametrize(("kind", "shape", "kept"), SHAPES)
def test_channels_are_dropped_as_torch_drops_them(kind: Any, shape: tuple[int, ...], kept: int) -> None:
    """Whole maps, for every number of axes that torch takes."""
    for by_key in (True, False):
        torch.manual_seed(0)
        if by_key:
            with Keyed(torch.tensor(3)):
                found = kind(0.5)(torch.ones(shape))
        else:
            found = kind(0.5)(torch.ones(shape))
        maps = (found > 0).flatten(kept)
        assert torch.equal(maps.all(-1), maps.any(-1))
        assert 0.2 < float(maps.all(-1).double().mean()) < 0.8
        assert found.shape == shape
