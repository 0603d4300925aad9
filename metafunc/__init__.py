"""metafunc: meta-gradients as composable transforms on torch.func."""

from metafunc import bayes, bounds, data, nets, optim, training
from metafunc.batching import Loop, Vmap
from metafunc.check import check
from metafunc.compare import compare
from metafunc.curvature import CentralDifference, Exact, GaussNewton
from metafunc.decorators import iterates, minimizes, solves
from metafunc.errors import (
    CheckError,
    ForwardModeError,
    NotFiniteError,
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
from metafunc.functional import Functional, functional
from metafunc.hessian_batch import with_hessian_batch
from metafunc.inner import Inner
from metafunc.linear import CG, GMRES, MINRES, Diagonal, Direct, Jacobi, LinearSolver, Neumann, NormalCG
from metafunc.memory import peak_memory
from metafunc.meta_optimizer import MetaOptimizer
from metafunc.metagrad import MetaGrad, meta_grad
from metafunc.outer import MetaStep
from metafunc.philox import fold_in
from metafunc.solvers import Composed, adam, gradient_descent, nesterov, newton_cg, optimizer_loop
from metafunc.step_keys import with_step_keys

__version__ = "0.1.0"

__all__ = [
    "CG",
    "GMRES",
    "MINRES",
    "Adapt",
    "Binomial",
    "CentralDifference",
    "CheckError",
    "Composed",
    "Diagonal",
    "Direct",
    "Estimator",
    "Exact",
    "Explicit",
    "FiniteDifference",
    "FirstOrder",
    "ForwardModeError",
    "Functional",
    "GaussNewton",
    "Implicit",
    "Inner",
    "Jacobi",
    "LinearSolver",
    "Loop",
    "MetaGrad",
    "MetaOptimizer",
    "MetaStep",
    "Neumann",
    "NormalCG",
    "NotFiniteError",
    "Reptile",
    "SecondDerivativeError",
    "Truncated",
    "Vmap",
    "ZeroGradientError",
    "adam",
    "bayes",
    "bounds",
    "check",
    "compare",
    "data",
    "fold_in",
    "functional",
    "gradient_descent",
    "iterates",
    "meta_grad",
    "minimizes",
    "nesterov",
    "nets",
    "newton_cg",
    "optim",
    "optimizer_loop",
    "peak_memory",
    "solves",
    "training",
    "with_hessian_batch",
    "with_step_keys",
]
