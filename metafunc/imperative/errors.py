"""The messages about loops of the user's own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metafunc.errors import SecondDerivativeError, ZeroGradientError, describe, say


def not_imperative(estimator: Any) -> TypeError:
    return TypeError(
        say(
            "estimator",
            "Explicit(), FirstOrder(), Truncated(depth), Binomial(order) or Implicit(solver), with curvature=Exact()",
            describe(estimator) if isinstance(estimator, Tensor) else repr(estimator)[:80],
            "choose one of these: the others take the steps themselves, which an imperative loop does not let them; "
            "mf.gradient_descent(...) and the decorators serve them all",
        )
    )


def no_fast_weights() -> ValueError:
    return ValueError(
        say(
            "loss",
            "a scalar computed from the fast parameters",
            "one that does not depend on them, or parameters that require no gradient",
            "compute it with the parameters as they are now, those after the last step, and outside of torch.no_grad()",
        )
    )


def changed_in_place() -> RuntimeError:
    return RuntimeError(
        say(
            "step",
            "the fast parameters as the last step left them",
            "ones modified in place",
            "make changes out of place, in the update",
        )
    )


def earlier_weights(name: str) -> ValueError:
    return ValueError(
        say(
            f"step under {name}",
            "a loss and an update of the fast parameters as they are now, and of the first ones",
            "a dependence on those after some other step, which this estimator does not follow",
            "use Explicit(), or detach them",
        )
    )


def dropped_steps(name: str) -> RuntimeError:
    return RuntimeError(
        say(
            f"backward under {name}",
            "a derivative of the fast parameters after the last step",
            "those of an earlier one, whose graphs are gone",
            "call backward() on such a loss before the next step, or keep more steps, or use Explicit()",
        )
    )


def second_derivative_of_loop(name: str) -> SecondDerivativeError:
    return SecondDerivativeError(
        f"{name} in an imperative loop gives first derivatives only. Use Explicit() where second derivatives are "
        "needed, or detach the estimate."
    )


def out_of_reach(name: str, leaf: Tensor) -> ZeroGradientError:
    return ZeroGradientError(
        say(
            f"{name} in an imperative loop",
            "a gradient asked for of tensors that it reaches",
            f"{describe(leaf)}, a leaf that the inner losses or the updates depend on, such as a learned rate or "
            "weights of examples, whose gradient would be zero by construction",
            "use Explicit(), or Truncated(depth) or Binomial(order) over the steps that depend on it; or detach it, "
            "or leave it out by backward(inputs=...) or torch.autograd.grad(loss, ...)",
        )
    )


def entangled_loops(name: str) -> ValueError:
    return ValueError(
        say(
            "loss",
            "a dependence on the fast parameters that plain autograd follows",
            f"one through the steps of another loop, which {name} differentiates, so that a part of the inner gradient "
            "would be missing",
            "use Explicit() for that other loop, or detach its fast parameters where this loss is computed",
        )
    )


def recomputed_by_torch() -> NotImplementedError:
    return NotImplementedError(
        say(
            "loss",
            "a graph that stays as it was recorded",
            "one with torch.utils.checkpoint, which in the backward runs the model again, with the parameters that the "
            "module has by then, not with those of this step (and if reentrant hides them from autograd.grad)",
            "use FirstOrder() with use_reentrant=False, or leave the checkpoint out, or go native, where "
            "Explicit(checkpoint=True) saves the memory of the steps",
        )
    )


def implicit_loop_without_dependence(name: str) -> ZeroGradientError:
    return ZeroGradientError(
        say(
            f"{name} in an imperative loop",
            "an inner loss that depends on the meta-parameters by itself",
            "one of the fast parameters alone, whose minimiser does not depend on where the loop starts",
            "add a proximal term to the initial parameters to the loss, or use Explicit() or Truncated(depth)",
        )
    )
