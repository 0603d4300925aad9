"""The messages about other libraries' ways."""

from __future__ import annotations

from typing import Any

from metafunc.errors import ZeroGradientError, describe, say


def nothing_to_differentiate(solver: str, i: int, value: Any) -> TypeError:
    return TypeError(
        say(
            f"argument {i} of {solver}",
            "a tree with a floating-point tensor, since argnums asks for its gradient",
            describe(value),
            "pass a tensor, or leave the argument out of argnums",
        )
    )


def other_signature(solver: str, complaint: str) -> TypeError:
    return TypeError(
        say(
            "optimality_fn",
            f"a function of the same arguments as {solver}",
            f"one that cannot take them ({complaint})",
            f"give it the signature of {solver}: positional arguments in the same places, the others by the same names",
        )
    )


def no_pair(solver: str, output: Any) -> TypeError:
    return TypeError(
        say(
            solver,
            "a pair (solution, aux) with has_aux=True",
            describe(output),
            "return both, or leave has_aux out",
        )
    )


def not_a_solution(solver: str, path: str, leaf: Any) -> TypeError:
    return TypeError(
        say(
            f"{solver} at {path}",
            "a solution made of floating-point tensors",
            describe(leaf),
            "return the solution alone, or with has_aux=True a pair (solution, aux)",
        )
    )


def other_residual(solver: str, path: str, expected: str, got: str) -> ValueError:
    return ValueError(
        say(
            f"optimality_fn{path}",
            f"{expected}, as in the solution that {solver} returns",
            got,
            "return one equation for every entry of the solution, in a tree like it",
        )
    )


def uneven_aux(solver: str) -> ValueError:
    return ValueError(
        say(
            f"aux of {solver}",
            "the same tree for every task under vmap, with the same values where they are no tensors",
            "another for some task",
            "return what depends on the task as a tensor",
        )
    )


def other_fast_weights() -> ValueError:
    return ValueError(
        say(
            "params",
            "the fast parameters after the last step",
            "other tensors, whose history the estimator does not know",
            "leave params out, or use estimator=Explicit()",
        )
    )


def two_estimators(estimator: str) -> ValueError:
    return ValueError(
        say(
            "first_order",
            "one way to differentiate",
            f"first_order=True and estimator={estimator}",
            "leave one of them out",
        )
    )


def frozen_parameters(names: list[str]) -> ValueError:
    return ValueError(
        say(
            "adapt",
            "a module whose parameters all require a gradient",
            f"frozen ones: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}",
            "say allow_nograd=True to leave them as they are, or call requires_grad_() on them before clone()",
        )
    )


def unused_parameters(names: list[str]) -> ValueError:
    return ValueError(
        say(
            "loss",
            "one that depends on every parameter of the learner",
            f"no dependence on {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}",
            "say allow_unused=True to leave them as they are, or compute the loss by calling the learner",
        )
    )


def not_a_clone(name: str) -> TypeError:
    return TypeError(
        say(
            "adapt",
            f"a clone of the {name}",
            f"the {name} itself, whose parameters are the meta-parameters",
            f"write learner = {name.lower()}.clone() and learner.adapt(loss)",
        )
    )


def fixed_at_clone(value: Any) -> ValueError:
    return ValueError(
        say(
            "first_order",
            "one choice for all steps of a clone",
            f"first_order={value!r} in one of them",
            "give it to clone(), and leave it out in adapt()",
        )
    )


def rates_without_gradient(name: str) -> ZeroGradientError:
    return ZeroGradientError(
        say(
            "estimator",
            "one with a derivative in the rates of the steps",
            f"{name}, which gives the rates none",
            "use Explicit(), FirstOrder() or Truncated(1) and deeper, or MAML with constant rates",
        )
    )


def other_rates(expected: int, got: int) -> ValueError:
    return ValueError(
        say(
            "lrs",
            f"one tensor for each of the {expected} parameters",
            f"{got} tensors",
            "give torch.nn.Parameter tensors in the order of model.parameters()",
        )
    )


def other_module(name: str) -> ValueError:
    return ValueError(
        say(
            "state",
            f"parameters and buffers by the names that this {name} has",
            "others",
            "recover the module that the state was extracted from, or one built alike",
        )
    )


def other_state(of: str, expected: str, got: str) -> ValueError:
    return ValueError(
        say(
            "state_dict",
            f"the state of an optimizer with the {of} {expected}"
            if of == "estimator"
            else f"a state {expected}",
            got,
            "load what state_dict() of an optimizer built alike has returned",
        )
    )


def forgotten_weights(time: int, steps: int) -> ValueError:
    return ValueError(
        say(
            "time",
            f"0 (the initial parameters), {steps} (those after the last step), or None",
            str(time),
            "use one of these, or estimator=Explicit(), which keeps the parameters after every step",
        )
    )
