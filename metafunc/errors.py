"""Every message that the package raises: what was expected, what was there instead, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor


class SecondDerivativeError(RuntimeError):
    """A derivative was taken of an estimate that has none worth having."""


class ForwardModeError(NotImplementedError):
    """A forward-mode derivative was asked of an estimator that has none."""


class ZeroGradientError(ValueError):
    """A gradient was asked for that is undefined, or zero by construction.

    Attributes:
        leaves: The leaves of the arguments of a solve that it was asked for, by number, where that is known.
    """

    leaves: tuple[int, ...] = ()


class NotFiniteError(FloatingPointError):
    """A meta-step was refused, as its loss or gradient is not finite; nothing was changed by it."""


class CheckError(RuntimeError):
    """:func:`metafunc.check` found a result that should not be used."""


def describe(x: Any) -> str:
    """A leaf in few words."""
    if isinstance(x, type):
        return f"the class {x.__name__}"
    if isinstance(x, Tensor):
        return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)} on {x.device}"
    return f"{type(x).__name__} {x!r}"[:80]


def say(where: str, expected: str, got: str, do: str) -> str:
    return f"{where}: expected {expected}, got {got}. {do[0].upper()}{do[1:]}."


# Options


def out_of_range(name: str, value: Any, expected: str, hint: str) -> ValueError:
    return ValueError(say(name, expected, repr(value), f"give {name} such a value, {hint}"))


def other_kind(name: str, expected: str, value: Any, hint: str) -> TypeError:
    return TypeError(say(name, expected, describe(value), f"give {name} such a value, {hint}"))


def not_a(name: str, expected: str, value: Any) -> TypeError:
    do = f"build one, {value.__name__}(...)" if isinstance(value, type) else f"give {name} one of these"
    return TypeError(say(name, expected, describe(value), do))


def not_callable(name: str, signature: str, value: Any) -> TypeError:
    return TypeError(say(name, f"a function {signature}", describe(value), "pass the function itself"))


def loss_or_objective(solver: str) -> ValueError:
    return ValueError(
        say(
            solver,
            "exactly one of loss= and objective=",
            "none or both",
            "give loss(phi, *data), or objective(phi, theta, *data) where the problem depends on theta in its own way",
        )
    )


def nesterov_without_momentum() -> ValueError:
    return ValueError(
        say("nesterov", "a momentum above 0", "momentum=0", "give momentum=0.9, say, or leave nesterov out")
    )


def longer_than_path(option: str, value: int, steps: int, name: str) -> ValueError:
    return ValueError(
        say(
            option,
            f"at most the {steps} steps of {name}",
            str(value),
            f"use {option}={steps}, which is exact, or take more steps",
        )
    )


# Linear solvers


def unlike_phi(where: str, expected: Any, got: Any) -> ValueError:
    if isinstance(expected, Tensor):
        expected, got = describe(expected), describe(got)
    got = str(got)
    return ValueError(
        say(where, expected, got, "give a tree like phi, in nesting, shapes, dtypes and devices")
    )


# Parameters and losses


def empty_parameters(name: str) -> ValueError:
    return ValueError(
        say(
            name,
            "a tree with at least one tensor",
            "an empty tree",
            "pass the parameters to adapt, for example dict(net.named_parameters())",
        )
    )


def not_floating(name: str, path: str, leaf: Any) -> TypeError:
    return TypeError(
        say(
            f"{name} at {path}",
            "a floating-point tensor",
            describe(leaf),
            "keep other values out of the parameters: close over them or pass them as data; "
            "if only a part of theta is adapted, say which with init=lambda theta: theta[...]",
        )
    )


def not_scalar(name: str, value: Any) -> ValueError:
    return ValueError(say(name, "a scalar tensor", describe(value), "reduce it, for example with .mean()"))


def other_structure(name: str, expected: Any, got: Any) -> ValueError:
    return ValueError(
        say(
            name,
            f"phi with the structure {expected}",
            str(got),
            "return such a tree; if phi does not look like theta, say what it looks like with init=lambda theta: ...",
        )
    )


def other_leaf(name: str, path: str, expected: Tensor, got: Any) -> ValueError:
    return ValueError(
        say(
            f"{name} at {path}",
            describe(expected),
            describe(got),
            "return phi in the shape, dtype and device announced (those of theta, or of init(theta) with init=)",
        )
    )


def other_setting(name: str, wanted: list[str], there: list[str]) -> ValueError:
    missing, over = [p for p in wanted if p not in there], [p for p in there if p not in wanted]
    got = [*(f"nothing at {path}" for path in missing[:3]), *(f"something at {path}" for path in over[:3])]
    return ValueError(
        say(
            name,
            f"a number, or a tree like phi, with leaves at {', '.join(wanted[:5])}{', ...' if len(wanted) > 5 else ''}",
            " and ".join(got) or "another nesting",
            f"give {name} one leaf for every leaf of phi",
        )
    )


def unfit_setting(name: str, path: str, leaf: Tensor, got: Any) -> ValueError:
    return ValueError(
        say(
            f"{name} at {path}",
            f"a number, or a tensor that multiplies {describe(leaf)} without changing its shape or dtype",
            describe(got),
            f"give {name} as a tree like phi, or as a tensor without axes",
        )
    )


def step_without_graph(name: str, path: str) -> ZeroGradientError:
    return ZeroGradientError(
        say(
            name,
            "a step whose outcome depends differentiably on phi",
            f"one that uses phi at {path} without a derivative, which would make the meta-gradient zero",
            "remove no_grad(), detach() and numpy from the step and take gradients in it with torch.func.grad; or "
            "declare it as a black box with @mf.minimizes(objective) or @mf.solves(residual)",
        )
    )


def step_not_differentiable(name: str, why: str) -> TypeError:
    return TypeError(
        say(
            name,
            "a step that can be differentiated",
            f"one that cannot ({why})",
            "keep numpy, detach() and .backward() out of it and take gradients in it with torch.func.grad; or declare "
            "it as a black box with @mf.minimizes(objective) or @mf.solves(residual)",
        )
    )


def captured(name: str) -> ZeroGradientError:
    return ZeroGradientError(
        say(
            name,
            "functions whose captured tensors can be seen as operands of torch's operators",
            "a function that reaches a tensor that is being differentiated in another way, such as compiled or "
            "scripted code, or an autograd.Function that was given a captured tensor",
            "pass that tensor in theta or in the data, or detach it",
        )
    )


def captured_in_compiled(x: Tensor) -> ZeroGradientError:
    return ZeroGradientError(
        say(
            "inner problem",
            "functions of their arguments alone, inside torch.compile",
            f"one that captured {describe(x)}, a tensor that requires a gradient and would get none",
            "pass it in theta or in the data, detach it, or leave out torch.compile",
        )
    )


def learned_beside_theta(x: Tensor) -> ZeroGradientError:
    return ZeroGradientError(
        say(
            "loss_fn, inner",
            "functions that reach what is learned through theta, the module's parameters by name",
            f"a captured {describe(x)}, which requires a gradient and would get none",
            "make it a parameter of the module, such as net.log_lr, and read it from theta, lr=lambda theta: "
            "theta['log_lr'].exp(); put a learned loss into the module's forward; or detach it",
        )
    )


def not_an_optimizer(value: Any) -> TypeError:
    return TypeError(
        say(
            "optimizer",
            "a functional optimizer with init and update such as torchopt.adam(lr=0.01), or a function from parameters "
            "to a torch.optim.Optimizer such as functools.partial(torch.optim.SGD, lr=0.1)",
            "an optimizer that already has parameters" if hasattr(value, "param_groups") else describe(value),
            "pass one of these: every task needs an optimizer of its own",
        )
    )


def update_reads_values() -> TypeError:
    return TypeError(
        say(
            "optimizer",
            "an update made of tensor operations",
            "one that turns a tensor into a Python number, which loses its derivative and cannot be batched",
            "use metafunc.interop.torchopt.clip_grad_norm in place of torchopt's, or another optimizer",
        )
    )


def optimizer_state(got: str) -> TypeError:
    return TypeError(
        say(
            "optimizer",
            "a state that is a tree of tensors and plain values, returned by init and update",
            got,
            "keep every tensor in the state, in one shape, or write the step yourself under @mf.iterates(steps=K)",
        )
    )


def optimizer_side_by_side() -> TypeError:
    return TypeError(
        say(
            "optimizer",
            "a state of tensors alone where steps with different numbers run side by side (a tolerance under vmap) or "
            "numbers are not known (torch.compile)",
            "one that counts its steps in Python",
            "leave out the tolerance, run task by task with tasks=mf.Loop(), or use an optimizer with its counter in a "
            "tensor",
        )
    )


def update_without_derivative(why: str) -> TypeError:
    return TypeError(
        say(
            "optimizer",
            "an update that can be differentiated with respect to the gradients",
            f"one that cannot ({why})",
            "use Implicit or FiniteDifference, which do not follow the path, or another optimizer",
        )
    )


# Wrapping


def not_to_be_pickled(name: str) -> TypeError:
    return TypeError(
        say(
            name,
            "an inner problem of functions that their modules have by name",
            "one that could not be found again, of a function within a function or put together by hand",
            "define the function at the top of a module before you pickle or copy what is made of it",
        )
    )


def wrapped_twice(outer: str, inner: str) -> TypeError:
    return TypeError(
        say(outer, "an inner problem", f"one already wrapped in {inner}", "choose one of the two estimators")
    )


def not_an_inner_problem(name: str, value: Any) -> TypeError:
    return TypeError(
        say(
            name,
            "an inner problem",
            getattr(value, "__name__", None) or describe(value),
            "build one with mf.gradient_descent(...), or say what your function does with @mf.minimizes(objective), "
            "@mf.solves(residual) or @mf.iterates(steps=K) below the estimator",
        )
    )


def without_parentheses(name: str, required: Iterable[str]) -> TypeError:
    call = f"mf.{name}({', '.join(f'{option}=...' for option in required)})"
    return TypeError(
        say(
            name,
            "its options",
            "what it is to be put around",
            f"write {call}(inner), with the options in the first parentheses, or @{call} above a function that "
            " is declared with @mf.minimizes(objective), @mf.solves(residual) or @mf.iterates(steps=K)",
        )
    )


def not_a_loss(solver: str, signature: str, value: Any) -> TypeError:
    return TypeError(
        say(
            solver,
            f"a function {signature}",
            f"the module {type(value).__name__}" if hasattr(value, "named_parameters") else describe(value),
            "make one of a module with mf.functional(module, loss_fn), gradient_descent(**model.problem, ...); "
            "a module that is such a function itself is passed as module.forward",
        )
    )


def needs_path(name: str, inner: str) -> TypeError:
    return TypeError(
        say(
            name,
            "an inner problem solved by steps it can follow",
            f"the black-box solver {inner}",
            "use Implicit, which needs the solution only, or declare one step with @mf.iterates(steps=K)",
        )
    )


def no_objective() -> TypeError:
    return TypeError(
        say(
            "gradient of the inner problem",
            "an inner problem with an objective",
            "one declared by a residual or a step",
            "declare it with mf.gradient_descent(...) or @mf.minimizes(objective)",
        )
    )


def needs_composed(inner: str) -> TypeError:
    return TypeError(
        say(
            "GaussNewton",
            "a loss declared as mf.Composed(model, criterion)",
            f"the loss of {inner}, in which model and criterion cannot be told apart",
            "declare it so, or use curvature=Exact()",
        )
    )


def needs_objective(name: str, inner: str) -> TypeError:
    return TypeError(
        say(
            name,
            "an inner problem with an objective",
            f"{inner}, which has none",
            "declare it with mf.gradient_descent(...), or use another estimator",
        )
    )


def needs_curvature_free(name: str, inner: str) -> TypeError:
    return TypeError(
        say(
            name,
            "curvature=Exact()",
            f"another curvature for {inner}, which has no objective to take it of",
            "leave curvature out, or declare the objective",
        )
    )


def needs_gradient_steps(name: str, inner: str) -> TypeError:
    return TypeError(
        say(
            name,
            "an inner problem solved by gradient steps, which can be solved again under a perturbation",
            inner,
            "use mf.gradient_descent(...), or Implicit, which solves a linear system instead",
        )
    )


def needs_lr(name: str, inner: str) -> TypeError:
    return TypeError(
        say(
            name,
            "an inner solver with a learning rate",
            inner,
            "use mf.gradient_descent(...), or another estimator",
        )
    )


def needs_symmetric(solver: str, inner: str) -> TypeError:
    return TypeError(
        say(
            solver,
            "a symmetric linear system",
            f"the residual of {inner}, which is not known to have a symmetric Jacobian",
            "use GMRES(), NormalCG() or Direct(), or say symmetric=True in the decorator if it has one",
        )
    )


# Derivatives


def no_implicit_gradient(name: str, inner: str) -> ZeroGradientError:
    return ZeroGradientError(
        say(
            name,
            "an inner problem whose solution depends on theta",
            f"{inner} without prox, whose minimiser does not depend on where it starts",
            "give prox=..., or an objective(phi, theta, *data), or use Explicit or Truncated",
        )
    )


def zero_by_construction(name: str, path: str, advice: str, leaves: tuple[int, ...]) -> ZeroGradientError:
    error = ZeroGradientError(
        say(
            name,
            "a leaf that its gradient can reach",
            f"a gradient asked for at {path}, which feeds the inner solve but gets a zero gradient by construction",
            f"{advice}, or detach that leaf for the solve, adapt(detached, ...), if the outer loss alone should see it",
        )
    )
    error.leaves = leaves
    return error


def outer_without_phi() -> ZeroGradientError:
    return ZeroGradientError(
        say(
            "outer",
            "a loss that depends on phi, the adapted parameters",
            "one that does not, so that its gradient through the solve is zero by construction",
            "compute it from its first argument, and check that nothing on the way is detached or under no_grad",
        )
    )


def no_second_derivative(name: str) -> SecondDerivativeError:
    return SecondDerivativeError(
        f"{name} gives an estimate of the meta-gradient that is not the derivative of any function, so a derivative of "
        "it would be meaningless. Use Explicit or Implicit with curvature=Exact() where second derivatives are "
        "needed, or detach the estimate."
    )


def no_second_derivative_of_model(error: Exception | None) -> NotImplementedError:
    return NotImplementedError(
        f"The inner objective has no second derivative in torch, neither in reverse nor in forward mode ({error}). Use "
        "curvature=CentralDifference(), or an estimator that takes no second derivatives (FirstOrder, "
        "FiniteDifference), or replace the operator that is named."
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


def complex_leaf(name: str) -> NotImplementedError:
    return NotImplementedError(
        f"{name} has no derivative with respect to complex tensors. Pass torch.view_as_real(z) and call "
        "torch.view_as_complex on it in the loss, or detach it."
    )


# Data


def odd_data(count: int) -> ValueError:
    return ValueError(
        say(
            "with_hessian_batch",
            "as many data arguments for the Hessian as for the loss",
            f"{count} data arguments in all",
            "call adapt(theta, *data, *hessian_data)",
        )
    )


# Modules


def nothing_to_train(name: str) -> ValueError:
    return ValueError(
        say(
            "module",
            "at least one parameter that requires a gradient",
            f"a {name} without any",
            "call requires_grad_() on what is to be learned",
        )
    )


def nothing_by_that_name(part: str, names: list[str]) -> ValueError:
    return ValueError(
        say(
            "adapt",
            "parameters or submodules of the module that require a gradient",
            repr(part),
            f"choose among {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}",
        )
    )


def no_sets(got: str) -> ValueError:
    return ValueError(
        say(
            "tasks",
            'a mapping with "support" and "query", or a pair of these',
            got,
            "pass {'support': (inputs, targets), 'query': (inputs, targets)}, each with a leading axis of tasks",
        )
    )


def parameters_of_another(name: str, strangers: int, count: int) -> ValueError:
    return ValueError(
        say(
            "optimizer",
            f"an optimizer of the {name}'s own parameters",
            f"one in which {strangers} of {count} parameters are not the {name}'s",
            f"build it from {name}.parameters(), after the {name} was moved to its device",
        )
    )


def loss_without_parameters(names: list[str]) -> ValueError:
    return ValueError(
        say(
            "loss_fn",
            "a loss that depends on the parameters that are adapted",
            f"one that depends on none of {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}",
            "look for a detach() or a no_grad() in the module or the loss",
        )
    )


def wrapped_module(name: str, path: str, kind: str) -> TypeError:
    where = f" at {path!r}" if path else ""
    return TypeError(
        say(
            name,
            "the module itself, on one device in every process",
            f"a {kind}{where}, whose hooks a function of the parameters does not run: processes would drift apart",
            f"wrap nothing: give the {name} inside (.module), and after meta.backward(tasks) call "
            "torch.distributed.all_reduce(p.grad) and p.grad /= torch.distributed.get_world_size() for every "
            "parameter p, and then step the optimizer",
        )
    )


def scheduler_of_figures(kind: str) -> TypeError:
    return TypeError(
        say(
            "scheduler",
            "one that is stepped after every meta-step, without a figure",
            f"{kind}, which waits for one",
            f"leave scheduler= out, and call the {kind}'s step(score) yourself, after a validation",
        )
    )


def scheduler_of_another(kind: str) -> ValueError:
    return ValueError(
        say(
            "scheduler",
            "a scheduler of the optimizer that is given",
            f"a {kind} of another one",
            "build it with that optimizer",
        )
    )


def metrics_without_names(value: Any) -> TypeError:
    got = getattr(value, "__name__", None) or describe(value)
    return TypeError(
        say(
            "metrics",
            "functions metric(outputs, targets) -> scalar by name",
            got,
            f"write metrics={{'name': {got}}}",
        )
    )


def metric_by_a_taken_name(name: str, taken: tuple[str, ...]) -> ValueError:
    return ValueError(
        say("metrics", f"other names than {', '.join(taken)}", repr(name), "give that metric another name")
    )


def not_a_recipe(name: str, value: Any, made: bool = False) -> TypeError:
    got = repr(value) if not isinstance(value, Tensor) else describe(value)
    return TypeError(
        say(
            name,
            "a function from a problem to an inner problem without an estimator",
            f"one that returns {got[:80]}" if made else got[:80],
            f"write {name}=lambda p: mf.gradient_descent(**p, lr=0.01, steps=5), say, and give estimator= beside it",
        )
    )


def frozen_later(names: list[str]) -> ValueError:
    return ValueError(
        say(
            "adapt",
            "parameters that require a gradient",
            f"{', '.join(names)}, frozen after they were chosen",
            "call requires_grad_() on them, or build the meta-optimizer anew with adapt= naming the others",
        )
    )


def not_copied(name: str, path: str, value: Any, error: Exception) -> TypeError:
    return TypeError(
        say(
            name,
            "attributes that can be copied",
            f"{path}, a {type(value).__name__} ({error})",
            "remove that attribute before, or give its class a __deepcopy__",
        )
    )


def not_finite(count: int, data: list[int], losses: list[int]) -> NotFiniteError:
    what, tasks = ("data that are", data) if data else ("an outer loss that is", losses)
    named = ", ".join(map(str, tasks[:8])) + (", ..." if len(tasks) > 8 else "")
    got = f"{what} not finite in task {named} of 0 to {count - 1}"
    if not tasks:
        got = "finite losses with a derivative that is not finite, as that of a square root at 0"
    do = (
        "leave such tasks out"
        if data
        else "lower the inner lr, or the outer one; no parameter was changed, so that the next batch may be tried"
    )
    return NotFiniteError(say("meta-gradient", "finite numbers", got, do))


def not_a_state(own: Any, got: Any) -> ValueError:
    got = f"entries {sorted(map(str, got))}" if isinstance(got, dict) else describe(got)
    return ValueError(
        say(
            "state",
            f"what state_dict() returned, with the entries {sorted(own)}",
            got,
            "load what was saved from a state_dict() of this version of the library",
        )
    )


def state_of_another(differing: dict[str, tuple[Any, Any]]) -> ValueError:
    here, there = (", ".join(f"{n}={pair[i]}" for n, pair in differing.items()) for i in range(2))
    return ValueError(
        say(
            "state",
            f"that of a loop with {here}",
            f"that of one with {there}",
            "build it as it was when it was saved",
        )
    )


def state_of_another_module(own: dict[str, Any], got: dict[str, Any]) -> ValueError:
    names = [name for name in {**own, **got} if own.get(name) != got.get(name)][:3]
    ours, theirs = ([f"{n} {found.get(n, 'missing')}" for n in names] for found in (own, got))
    return ValueError(
        say(
            "state",
            f"that of a module with {', '.join(ours)}",
            f"that of one with {', '.join(theirs)}",
            "build the module as it was when it was saved",
        )
    )


def tasks_elsewhere(device: Any, leaf: Any) -> ValueError:
    return ValueError(
        say(
            "tasks",
            f"tensors on {device}, where the module's parameters are",
            describe(leaf),
            f'move the tasks there, or have them made there, as by Episodes(device="{device}")',
        )
    )


def not_a_batch(batch: Any) -> ValueError:
    return ValueError(
        say(
            "batch",
            "a pair (inputs, targets)",
            f"{len(batch)} entries" if isinstance(batch, tuple | list) else describe(batch),
            "put several inputs into a tuple or a dict of their own: ((x, mask), y)",
        )
    )


def recurrent_under_vmap(name: str) -> NotImplementedError:
    return NotImplementedError(
        say("module", "layers that torch can map over tasks", f"an {name} under vmap", "use tasks=mf.Loop()")
    )


def buffer_written(name: str) -> ValueError:
    return ValueError(
        say(
            "module",
            "a forward pass that leaves buffers alone",
            f"one that wrote to the buffer {name!r}, which all tasks and steps would share",
            "put the module in eval mode if it then does not, or keep such a state out of the inner loop",
        )
    )


def other_passes() -> ValueError:
    return ValueError(
        say(
            "module",
            'as many batch norms for the query set as for the support set, as buffers="task" needs',
            "more of them",
            'use buffers="batch" for a module whose layers depend on its inputs',
        )
    )


def no_module_by_that_name(name: str, names: list[str]) -> ValueError:
    known = ", ".join(map(repr, names[:20]))
    return ValueError(
        say("buffers", f"names of modules: {known}", repr(name), "write the name of a part as it is there")
    )


def two_statistics() -> ValueError:
    return ValueError(
        say(
            "buffers",
            'norms by "batch" or norms by "task", beside frozen ones',
            "both in one module",
            'name the rest as well, {"": "task", "stem": "frozen"}, or leave one of the two out',
        )
    )


def norm_in_eval_mode(name: str) -> ValueError:
    return ValueError(
        say(
            "module",
            'a module in training mode for buffers="batch" and "task"',
            f"a {name} in eval mode, which would use its running statistics",
            'call module.train(), or say buffers="frozen", or buffers={"name of that part": "frozen"}',
        )
    )


def random_without_key() -> ValueError:
    return ValueError(
        say(
            "dropout",
            'randomness="same" or "different", and a key',
            "dropout in training mode without one",
            'say randomness="different" and pass a key with the data, adapt(theta, batch, key), or call module.eval()',
        )
    )


def not_by_key(name: str) -> ValueError:
    return ValueError(
        say(
            "module",
            "dropout as the only source of randomness, drawn from a key",
            f"{name}, which draws random numbers from a generator: mapped and recomputed runs would differ",
            "draw such numbers before, and pass them with the data, or use nn.Dropout with randomness='different'",
        )
    )


def drawing_objective(name: str) -> ValueError:
    return ValueError(
        say(
            name,
            "an objective that is the same function at every evaluation",
            "one that draws random numbers from a generator, so that it has no solution to differentiate",
            "draw them before and pass them with the data, or draw from a key, or use Explicit, Truncated or Binomial",
        )
    )


def writes_to_captured(name: str) -> RuntimeError:
    return RuntimeError(
        say(
            name,
            "a loss that changes nothing in place",
            "one that writes to a tensor it captured, as a norm does that updates its running statistics",
            "make the loss by mf.functional(module, loss_fn), which has a policy for buffers, or build the norm with "
            "track_running_stats=False",
        )
    )


def cannot_be_mapped(error: Exception) -> RuntimeError:
    said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return RuntimeError(
        say(
            "tasks=Vmap()",
            "a model and losses that torch can map over tasks",
            f"one that runs task by task only: {said[:300]}",
            "take tasks=mf.Loop(), which makes no demands; or make the loss by mf.functional(module, loss_fn), which "
            "has a mapped form of norms with running statistics, dropout and attention",
        )
    )


# Results


def unusable(findings: list[str]) -> CheckError:
    return CheckError("; ".join(findings) + ".")


def not_wrapped(name: str, value: Any) -> TypeError:
    return TypeError(
        say(
            name,
            "an inner problem wrapped in an estimator",
            getattr(value, "__name__", None) or describe(value)[:60],
            "wrap it first, for example mf.Explicit()(inner)",
        )
    )


def no_use_for_guess(name: str) -> TypeError:
    return TypeError(
        say("guess", "an estimator that solves a linear system", name, "leave guess out, or use Implicit")
    )


def no_query() -> TypeError:
    return TypeError(
        say(
            "meta_grad",
            "f(theta, *data, query)",
            "theta alone",
            "pass the task's data and, last, its query set",
        )
    )


def uneven_tasks(sizes: set[Any]) -> ValueError:
    return ValueError(
        say(
            "tasks",
            "tensors that all have the same leading axis of tasks",
            f"leading sizes {sorted(map(str, sizes))}",
            "stack the tasks along a first axis, as many in every tensor, or leave tasks= out for a single task",
        )
    )


def no_tasks() -> ValueError:
    return ValueError(say("tasks", "at least one task", "none", "leave out batches that are empty"))


def not_a_tensor(path: str, value: Any) -> TypeError:
    return TypeError(
        say(
            f"tasks at {path}",
            "torch tensors",
            f"{type(value).__module__.partition('.')[0]}'s {type(value).__name__}",
            "turn it into a tensor first, with torch.from_numpy(array) or torch.as_tensor(array)",
        )
    )


def other_entries(i: int, got: list[Any], first: list[Any]) -> ValueError:
    return ValueError(
        say(
            f"tasks[{i}]",
            'a mapping with "support" and "query", and with the same entries as the first task',
            f"{sorted(map(str, got))} beside {sorted(map(str, first))}",
            "give every task as {'support': (inputs, targets), 'query': (inputs, targets)}",
        )
    )


def tasks_of_different_size(i: int, got: Any, first: Any) -> ValueError:
    return ValueError(
        say(
            "tasks",
            "tasks of one shape, as Vmap() stacks them",
            f"{got} in task {i} and {first} in task 0",
            "use tasks=mf.Loop(), which takes them as they are",
        )
    )


# Packages


def not_installed(name: str, package: str, extra: str, otherwise: str = "") -> ImportError:
    do = f"run pip install 'metafunc[{extra}]'" + (f", or {otherwise}" if otherwise else "")
    return ImportError(say(name, f"the package {package}", "none installed", do))
