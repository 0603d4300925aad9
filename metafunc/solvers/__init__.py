"""Solvers of the inner problem; each builds an :class:`~metafunc.inner.Inner`."""

from metafunc.solvers.gradient_descent import gradient_descent

__all__ = ["gradient_descent"]
