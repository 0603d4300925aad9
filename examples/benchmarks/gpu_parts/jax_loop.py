"""The same meta-gradients by JAX, jit-compiled: the inner loop unrolled, all tasks at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch
from agreement import difference
from contestants import plain_loop, stacked_autograd
from problems import Problem
from torch import nn

import metafunc as mf
from gpu_parts.costs import BASELINE, of, problems
from gpu_parts.measure import Call, Part, rows_of


def forward(net: nn.Module, jax: Any) -> Callable[[dict[str, Any], Any], Any]:
    """The network as a function of JAX arrays, layer by layer."""
    lax, jnp = jax.lax, jax.numpy

    def apply(params: dict[str, Any], x: Any) -> Any:
        for name, layer in net.named_children():
            weight, bias = params.get(f"{name}.weight"), params.get(f"{name}.bias")
            if isinstance(layer, nn.Linear):
                x = x @ weight.T + bias
            elif isinstance(layer, nn.Conv2d):
                form = ("NCHW", "OIHW", "NCHW")
                x = lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=form)
                x = x + bias[:, None, None]
            elif isinstance(layer, nn.BatchNorm2d):
                mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
                x = (x - mean) / jnp.sqrt(var + layer.eps)
                x = x * weight[:, None, None] + bias[:, None, None]
            elif isinstance(layer, nn.ReLU):
                x = jnp.maximum(x, 0)
            elif isinstance(layer, nn.MaxPool2d):
                x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
            elif isinstance(layer, nn.Flatten):
                x = x.reshape(len(x), -1)
        return x

    return apply


def meta_gradient(problem: Problem, jax: Any) -> Callable[[], Any]:
    """``jit`` of the mean over the tasks, as a call that comes back once all is done."""
    jnp, apply = jax.numpy, forward(problem.net, jax)
    classes = problem.query[1].dtype == torch.int64

    def loss(params: Any, batch: Any) -> Any:
        out, y = apply(params, batch[0]), batch[1]
        if not classes:
            return ((out - y) ** 2).mean()
        return -jnp.take_along_axis(jax.nn.log_softmax(out), y[:, None], axis=1).mean()

    def meta_loss(theta: Any, support: Any, query: Any) -> Any:
        phi = theta
        for _ in range(problem.steps):
            slope = jax.grad(loss)(phi, support)
            phi = {name: phi[name] - problem.lr * slope[name] for name in phi}
        return loss(phi, query)

    def mean(theta: Any, support: Any, query: Any) -> Any:
        each = jax.vmap(jax.grad(meta_loss), in_axes=(None, 0, 0))(theta, support, query)
        return {name: slope.mean(0) for name, slope in each.items()}

    compiled = jax.jit(mean)
    theta = {name: jnp.asarray(p.cpu().numpy()) for name, p in problem.theta.items()}
    support, query = (
        tuple(jnp.asarray(x.cpu().numpy()) for x in batch) for batch in (problem.support, problem.query)
    )
    return lambda: jax.block_until_ready(compiled(theta, support, query))


def jax_too(part: Part) -> None:
    """Beside the baseline and the fastest by hand, once it agrees with the plain loop."""
    os.environ.setdefault(
        "XLA_PYTHON_CLIENT_PREALLOCATE", "false"
    )  # else it takes most of the memory for itself
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
    platform = jax.devices()[0].platform
    if part.device != "cpu" and platform == "cpu":
        part.write(note=f"jax {jax.__version__} sees no GPU")
        return
    part.write(note=f"jax {jax.__version__} on {platform}")
    makers = problems(part.quick)
    for name, k in (
        [("sinusoid", 2), ("pictures", 1)]
        if part.quick
        else [("sinusoid", 5), ("pictures", 5), ("sinusoid", 1), ("pictures", 1), ("sinusoid", 16)]
    ):
        if part.left < 4:
            return
        problem = makers[name](k).to(part.device)
        start = time.perf_counter()
        run = meta_gradient(problem, jax)
        found = {n: torch.tensor(jax.device_get(g)) for n, g in run().items()}
        seconds = time.perf_counter() - start
        apart = difference(found, {n: g.cpu() for n, g in plain_loop(problem).items()})
        if apart > 1e-2:
            part.write(note=f"{problem.name}: JAX is {apart:.1e} from the plain loop, and was not timed")
            continue
        runs: dict[str, Call] = {
            BASELINE: lambda problem=problem: plain_loop(problem),
            "stacked, by hand": lambda problem=problem: stacked_autograd(problem),
            "mf Vmap() Explicit()": of(problem, mf.Explicit()),
            "jax, jit": run,
        }
        rows = rows_of(part, runs, part.at_most(5), baseline=BASELINE)
        rows[-1] |= {"MB": None, "kernels": None, "busy": None, "compile s": seconds, "from the loop": apart}
        part.table(f"JAX: {problem.name}", rows)
