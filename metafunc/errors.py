"""Every message that the package raises: what was expected, what was there instead, and what to do."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class SecondDerivativeError(RuntimeError):
    """A derivative was taken of an estimate that has none worth having."""


class ForwardModeError(NotImplementedError):
    """A forward-mode derivative was asked of an estimator that has none."""


class ZeroGradientError(ValueError):
    """A gradient was asked for that is undefined, or zero by construction."""


class CheckError(RuntimeError):
    """:func:`metafunc.check` found a result that should not be used."""


def describe(x: Any) -> str:
    """A leaf in few words."""
    if isinstance(x, Tensor):
        return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)} on {x.device}"
    return f"{type(x).__name__} {x!r}"[:80]


def _say(where: str, expected: str, got: str, do: str) -> str:
    return f"{where}: expected {expected}, got {got}. {do[0].upper()}{do[1:]}."


# Options


def out_of_range(name: str, value: Any, expected: str, hint: str) -> ValueError:
    return ValueError(_say(name, expected, repr(value), f"give {name} such a value, {hint}"))


def not_a(name: str, expected: str, value: Any) -> TypeError:
    got = describe(value) if not isinstance(value, type) else f"the class {value.__name__}"
    return TypeError(_say(name, expected, got, f"give {name} one of these"))


def not_callable(name: str, signature: str, value: Any) -> TypeError:
    return TypeError(_say(name, f"a function {signature}", describe(value), "pass the function itself"))


def loss_or_objective() -> ValueError:
    return ValueError(
        _say(
            "gradient_descent",
            "exactly one of loss= and objective=",
            "none or both",
            "give loss(phi, *data), or objective(phi, theta, *data) where the problem depends on theta in its own way",
        )
    )


def nesterov_without_momentum() -> ValueError:
    return ValueError(
        _say("nesterov", "a momentum above 0", "momentum=0", "give momentum=0.9, say, or leave nesterov out")
    )


def longer_than_path(option: str, value: int, steps: int, name: str) -> ValueError:
    return ValueError(
        _say(
            option,
            f"at most the {steps} steps of {name}",
            str(value),
            f"use {option}={steps}, which is exact, or take more steps",
        )
    )


# Parameters and losses


def empty_parameters(name: str) -> ValueError:
    return ValueError(
        _say(
            name,
            "a tree with at least one tensor",
            "an empty tree",
            "pass the parameters to adapt, for example dict(net.named_parameters())",
        )
    )


def not_floating(name: str, path: str, leaf: Any) -> TypeError:
    return TypeError(
        _say(
            f"{name} at {path}",
            "a floating-point tensor",
            describe(leaf),
            "keep other values out of the parameters: close over them or pass them as data; "
            "if only a part of theta is adapted, say which with init=lambda theta: theta[...]",
        )
    )


def not_scalar(name: str, value: Any) -> ValueError:
    return ValueError(_say(name, "a scalar tensor", describe(value), "reduce it, for example with .mean()"))


def other_structure(name: str, expected: Any, got: Any) -> ValueError:
    return ValueError(
        _say(
            name,
            f"phi with the structure {expected}",
            str(got),
            "return such a tree; if phi does not look like theta, say what it looks like with init=lambda theta: ...",
        )
    )


def other_leaf(name: str, path: str, expected: Tensor, got: Any) -> ValueError:
    return ValueError(
        _say(
            f"{name} at {path}",
            describe(expected),
            describe(got),
            "return phi in the shape, dtype and device announced (those of theta, or of init(theta) with init=)",
        )
    )


def captured(function: str, name: str) -> ZeroGradientError:
    return ZeroGradientError(
        _say(
            function,
            "a function of its arguments alone",
            f"one that captured {name!r}, a tensor that is being differentiated and would get no gradient",
            f"pass it in theta or in the data, or detach it: {name}.detach()",
        )
    )


# Wrapping


def wrapped_twice(outer: str, inner: str) -> TypeError:
    return TypeError(
        _say(outer, "an inner problem", f"one already wrapped in {inner}", "choose one of the two estimators")
    )


def not_an_inner_problem(name: str, value: Any) -> TypeError:
    return TypeError(
        _say(
            name,
            "an inner problem",
            getattr(value, "__name__", None) or describe(value),
            "build one with mf.gradient_descent(...), or say what your function does with @mf.minimizes(objective), "
            "@mf.solves(residual) or @mf.iterates(steps=K) below the estimator",
        )
    )


def needs_path(name: str, inner: str) -> TypeError:
    return TypeError(
        _say(
            name,
            "an inner problem solved by steps it can follow",
            f"the black-box solver {inner}",
            "use Implicit, which needs the solution only, or declare one step with @mf.iterates(steps=K)",
        )
    )


def no_objective() -> TypeError:
    return TypeError(
        _say(
            "gradient of the inner problem",
            "an inner problem with an objective",
            "one declared by a residual or a step",
            "declare it with mf.gradient_descent(...) or @mf.minimizes(objective)",
        )
    )


def needs_objective(name: str, inner: str) -> TypeError:
    return TypeError(
        _say(
            name,
            "an inner problem with an objective",
            f"{inner}, which has none",
            "declare it with mf.gradient_descent(...), or use another estimator",
        )
    )


def needs_curvature_free(name: str, inner: str) -> TypeError:
    return TypeError(
        _say(
            name,
            "curvature=Exact()",
            f"another curvature for {inner}, which has no objective to take it of",
            "leave curvature out, or declare the objective",
        )
    )


def needs_gradient_steps(name: str, inner: str) -> TypeError:
    return TypeError(
        _say(
            name,
            "an inner problem solved by gradient steps, which can be solved again under a perturbation",
            inner,
            "use mf.gradient_descent(...), or Implicit, which solves a linear system instead",
        )
    )


def needs_lr(name: str, inner: str) -> TypeError:
    return TypeError(
        _say(
            name,
            "an inner solver with a learning rate",
            inner,
            "use mf.gradient_descent(...), or another estimator",
        )
    )


def needs_symmetric(solver: str, inner: str) -> TypeError:
    return TypeError(
        _say(
            solver,
            "a symmetric linear system",
            f"the residual of {inner}, which is not known to have a symmetric Jacobian",
            "use Direct() or Neumann(), or say symmetric=True in the decorator if it has one",
        )
    )


# Derivatives


def no_implicit_gradient(name: str, inner: str) -> ZeroGradientError:
    return ZeroGradientError(
        _say(
            name,
            "an inner problem whose solution depends on theta",
            f"{inner} without prox, whose minimiser does not depend on where it starts",
            "give prox=..., or an objective(phi, theta, *data), or use Explicit or Truncated",
        )
    )


def zero_by_construction(name: str, path: str, advice: str) -> ZeroGradientError:
    return ZeroGradientError(
        _say(
            name,
            "a leaf that its gradient can reach",
            f"a gradient asked for at {path}, which feeds the inner solve but gets a zero gradient by construction",
            f"{advice}, or detach that leaf",
        )
    )


def no_second_derivative(name: str) -> SecondDerivativeError:
    return SecondDerivativeError(
        f"{name} gives an estimate of the meta-gradient that is not the derivative of any function, so a derivative of "
        "it would be meaningless. Use Explicit or Implicit with curvature=Exact() where second derivatives are "
        "needed, or detach the estimate."
    )


def no_forward_mode(name: str) -> ForwardModeError:
    return ForwardModeError(
        f"{name} has no forward-mode derivative. Use reverse mode (grad, vjp, jacrev), or Explicit, Truncated, "
        "Binomial or Implicit, which have both."
    )


def no_estimator(name: str) -> TypeError:
    return TypeError(
        f"{name}: a derivative was taken of an inner solve that no estimator is around. Wrap it, for example "
        "mf.Explicit()(inner), or mf.Implicit()(inner) for a black-box solver."
    )


def not_summable(name: str) -> ZeroGradientError:
    return ZeroGradientError(
        f"{name}: its pseudo-gradient belongs to one task and does not scale with the outer loss, so a mean over a "
        "vmap of tasks cannot weigh it. Take it task by task, vmap(grad(meta_loss)), and average, or use mf.meta_grad."
    )


def no_compile(version: str) -> RuntimeError:
    return RuntimeError(
        f"torch {version} drops the derivative rules of metafunc inside torch.compile without a word. Use torch 2.7 or "
        "newer, or compile without metafunc's calls in the compiled function."
    )


# Results


def unusable(findings: list[str]) -> CheckError:
    return CheckError("; ".join(findings) + ".")


def not_wrapped(name: str, value: Any) -> TypeError:
    return TypeError(
        _say(
            name,
            "an inner problem wrapped in an estimator",
            getattr(value, "__name__", None) or describe(value)[:60],
            "wrap it first, for example mf.Explicit()(inner)",
        )
    )


def no_query() -> TypeError:
    return TypeError(
        _say(
            "meta_grad",
            "f(theta, *data, query)",
            "theta alone",
            "pass the task's data and, last, its query set",
        )
    )


def uneven_tasks(sizes: set[Any]) -> ValueError:
    return ValueError(
        _say(
            "tasks",
            "tensors that all have the same leading axis of tasks",
            f"leading sizes {sorted(map(str, sizes))}",
            "stack the tasks along a first axis, or leave tasks= out for a single task",
        )
    )
