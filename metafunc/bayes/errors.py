"""The messages of this package."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metafunc.errors import describe


def out_of_range(name: str, value: Any, expected: str, do: str) -> ValueError:
    """A value that cannot be worked with."""
    return ValueError(f"{name}: expected {expected}, got {value!r}. {do[0].upper()}{do[1:]}.")


def not_positive(path: str, smallest: float) -> ValueError:
    """A variance that is none."""
    return ValueError(
        f"variance at {path}: expected finite numbers above 0, got {smallest:g}. "
        f"Give variances, not their logarithms; for a parameter without uncertainty use Elbo(..., variance=0.0)."
    )


def not_a_gaussian(name: str, keys: str, got: Any) -> TypeError:
    """Something other than means and log-variances."""
    found = f"a mapping with {sorted(map(str, got))}" if isinstance(got, dict) else describe(got)
    return TypeError(
        f"{name}: expected {keys}, got {found}. Build it with mf.bayes.prior(params, variance=0.01)."
    )


def unlike_mean(name: str, path: str, expected: Any, got: Any) -> ValueError:
    """Log-variances or a tree of variances that do not fit the means."""
    return ValueError(
        f"{name} at {path}: expected {expected}, one number for every mean, got {got}. "
        f"Build it with mf.bayes.prior(params, variance=0.01)."
    )


def no_noise(elbo: str) -> TypeError:
    """An objective that was given no data at all."""
    return TypeError(
        f"{elbo}: expected the data of a task and its noise, got no data. "
        f"Pass the noise last: adapt(theta, support, mf.bayes.noise(params, samples, generator))."
    )


def unlike_noise(path: str, expected: tuple[int, ...], got: Any) -> ValueError:
    """Noise that does not fit the parameters."""
    shape = ", ".join(["samples", *map(str, expected)])
    found = describe(got) if isinstance(got, Tensor) else str(got)
    return ValueError(
        f"noise at {path}: expected a floating-point tensor [{shape}] with at least one sample, got {found}. "
        f"Draw it with mf.bayes.noise(params, samples, generator), and pass it as the last data argument."
    )


def odd_antithetic(samples: int) -> ValueError:
    """Pairs that do not come out even."""
    return ValueError(
        f"samples: expected an even number of antithetic samples, got {samples}. "
        f"Ask for {samples + 1}, or leave antithetic=True out."
    )


def not_bayesian(inner: str) -> TypeError:
    """An inner problem without a variational objective."""
    return TypeError(
        f"fixed_point: expected an inner problem whose objective is an mf.bayes.Elbo, got {inner}. "
        f"Build it with mf.gradient_descent(**mf.bayes.Elbo(loss).problem, lr=..., steps=...)."
    )


def not_finite_samples(broken: int, samples: int) -> FloatingPointError:
    """Outputs that are no numbers."""
    return FloatingPointError(
        f"outputs: expected finite outputs of every sample, got {broken} of {samples} samples with NaN or infinity. "
        f"The posterior is too wide or has diverged: lower the inner lr or the prior's variance."
    )


def not_labels(classes: int, strange: list[int]) -> ValueError:
    """Labels that name no class."""
    got = f"labels {', '.join(map(str, sorted({*strange})[:5]))}" if strange else "none"
    return ValueError(
        f"labels: expected at least one, each in 0..{classes - 1} for {classes} classes, got {got}. "
        f"Take out the answers that are not to count, with their outputs."
    )


def not_outputs(expected: str, outputs: Any, targets: Any) -> ValueError:
    """Outputs and targets that do not go together."""
    return ValueError(
        f"outputs, targets: expected {expected}, got {describe(outputs)} and {describe(targets)}. "
        f"Pass what mf.bayes.predict returned, samples first."
    )


def not_a(name: str, expected: str, value: Any) -> TypeError:
    """A value of another kind."""
    return TypeError(f"{name}: expected {expected}, got {describe(value)}. Give {name} such a value.")
