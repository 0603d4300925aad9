"""Inner loops that somebody else's code takes step by step, differentiated by an estimator."""

from metafunc.imperative.chain import Chain
from metafunc.imperative.record import State

__all__ = ["Chain", "State"]
