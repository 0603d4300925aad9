"""Inner loops that somebody else's code takes step by step, differentiated by an estimator."""

from metafunc.imperative.chain import Chain
from metafunc.imperative.gate import marked
from metafunc.imperative.record import State, detached

__all__ = ["Chain", "State", "detached", "marked"]
