"""metafunc: meta-gradients as composable transforms on torch.func."""

from metafunc import data
from metafunc.compare import compare
from metafunc.curvature import CentralDifference, Exact
from metafunc.decorators import iterates, minimizes, solves
from metafunc.errors import (
    CheckError,
    ForwardModeError,
    SecondDerivativeError,
    ZeroGradientError,
)
from metafunc.estimator import Adapt, Estimator
from metafunc.estimators import (
    Binomial,
    Explicit,
    FiniteDifference,
    FirstOrder,
    Implicit,
    Reptile,
    Truncated,
)
from metafunc.inner import Inner
from metafunc.linear import CG, Direct, LinearSolver, Neumann
from metafunc.metagrad import Loop, MetaGrad, Vmap, check, meta_grad
from metafunc.solvers import gradient_descent

__version__ = "0.1.0"

__all__ = [
    "CG",
    "Adapt",
    "Binomial",
    "CentralDifference",
    "CheckError",
    "Direct",
    "Estimator",
    "Exact",
    "Explicit",
    "FiniteDifference",
    "FirstOrder",
    "ForwardModeError",
    "Implicit",
    "Inner",
    "LinearSolver",
    "Loop",
    "MetaGrad",
    "Neumann",
    "Reptile",
    "SecondDerivativeError",
    "Truncated",
    "Vmap",
    "ZeroGradientError",
    "check",
    "compare",
    "data",
    "gradient_descent",
    "iterates",
    "meta_grad",
    "minimizes",
    "solves",
]
