"""The noise that samples are made of: drawn once for a task, and from then on a part of its data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metafunc import options, tree
from metafunc.bayes import errors
from metafunc.bayes.gaussian import Gaussian
from metafunc.inner import check_parameters
from metafunc.tree import Tree


def noise(
    params: Tree,
    samples: int,
    generator: torch.Generator,
    *,
    tasks: int | None = None,
    antithetic: bool = False,
) -> Tree:
    """Standard normal noise for so many samples of the parameters.

    It is given to the inner problem as the last piece of a task's data, so that every inner step and every product
    with second derivatives sees the same numbers (common random numbers), and looped, mapped, chunked and recomputed
    runs do too. Any other numbers of this shape will do as well, such as the nodes of a quadrature.

    Args:
        params: A tree like the means.
        samples: How many.
        generator: The only source of chance; one on the CPU gives the same numbers on every device.
        tasks: How many tasks, each with noise of its own; ``None`` for one task without an axis.
        antithetic: Every number comes with its negative, which makes the mean of the noise exactly zero: the second
            half of the samples mirrors the first.

    Shapes:
        [samples, ...] for every parameter of shape [...], or [tasks, samples, ...].

    Raises:
        TypeError, ValueError: If there are no floating parameters, or a number is out of range.
    """
    check_parameters(params, "params")
    options.integer("samples", samples, 4)
    options.integer("tasks", tasks, 4, optional=True)
    expected = "a torch.Generator, such as torch.Generator().manual_seed(0)"
    options.instance("generator", generator, torch.Generator, expected)
    options.boolean("antithetic", antithetic)
    if antithetic and samples % 2:
        raise errors.odd_antithetic(samples)
    lead = () if tasks is None else (tasks,)
    drawn = samples // 2 if antithetic else samples

    def draw(like: Tensor) -> Tensor:
        shape = (*lead, drawn, *like.shape)
        z = torch.randn(shape, generator=generator, device=generator.device, dtype=like.dtype).to(
            like.device, non_blocking=True
        )
        return torch.cat([z, -z], dim=len(lead)) if antithetic else z

    return tree.map(draw, params)


def sample(posterior: Gaussian, noise: Tree) -> Tree:
    """Parameters drawn from a Gaussian by reparametrisation, ``mean + exp(log_variance / 2) noise``.

    Shapes:
        As the noise: [samples, ...] for every parameter, or without the axis.
    """
    return tree.map(
        lambda m, s, z: m + torch.exp(0.5 * s) * z, posterior["mean"], posterior["log_variance"], noise
    )


def check_noise(mean: Tree, noise: Any) -> int:
    """Raise unless the noise fits the means; how many samples it makes."""
    if tree.structure(noise) != tree.structure(mean):
        first = tree.leaves(mean)[0]
        raise errors.unlike_noise(".", tuple(first.shape), tree.structure(noise))
    counts: set[int] = set()
    for path, m, z in zip(tree.paths(mean), tree.leaves(mean), tree.leaves(noise), strict=True):
        if not tree.is_float(z) or z.ndim != m.ndim + 1 or z.shape[1:] != m.shape or not len(z):
            raise errors.unlike_noise(path, tuple(m.shape), z)
        counts.add(len(z))
        if len(counts) > 1:
            raise errors.unlike_noise(path, tuple(m.shape), z)
    return counts.pop()
