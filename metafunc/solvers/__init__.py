"""Solvers of the inner problem; each builds an :class:`~metafunc.inner.Inner`."""

from metafunc.solvers.adam import adam
from metafunc.solvers.gradient_descent import gradient_descent, nesterov
from metafunc.solvers.newton_cg import newton_cg
from metafunc.solvers.optimizer_loop import optimizer_loop
from metafunc.solvers.problem import Composed

__all__ = ["Composed", "adam", "gradient_descent", "nesterov", "newton_cg", "optimizer_loop"]
