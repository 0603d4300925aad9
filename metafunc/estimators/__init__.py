"""Estimators of the meta-gradient; one file each, none imports another."""

from metafunc.estimators.binomial import Binomial
from metafunc.estimators.explicit import Explicit
from metafunc.estimators.finite_difference import FiniteDifference
from metafunc.estimators.first_order import FirstOrder
from metafunc.estimators.implicit import Implicit
from metafunc.estimators.reptile import Reptile
from metafunc.estimators.truncated import Truncated

__all__ = ["Binomial", "Explicit", "FiniteDifference", "FirstOrder", "Implicit", "Reptile", "Truncated"]
