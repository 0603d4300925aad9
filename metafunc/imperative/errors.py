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


def implicit_loop_without_dependence(name: str) -> ZeroGradientError:
    return ZeroGradientError(
        say(
            f"{name} in an imperative loop",
            "an inner loss that depends on the meta-parameters by itself",
            "one of the fast parameters alone, whose minimiser does not depend on where the loop starts",
            "add a proximal term to the initial parameters to the loss, or use Explicit() or Truncated(depth)",
        )
    )
