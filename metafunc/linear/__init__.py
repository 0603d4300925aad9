"""Linear solvers: ``solve(matvec, b) -> (x, stats)``, one file each, and the derivative rule of a linear solve."""

from metafunc.linear.cg import CG
from metafunc.linear.direct import Direct
from metafunc.linear.gmres import GMRES
from metafunc.linear.minres import MINRES
from metafunc.linear.neumann import Neumann
from metafunc.linear.normal_cg import NormalCG
from metafunc.linear.preconditioner import Diagonal, Jacobi
from metafunc.linear.products import Products
from metafunc.linear.solver import LinearSolver, as_solver
from metafunc.linear.system import System, solve

__all__ = [
    "CG",
    "GMRES",
    "MINRES",
    "Diagonal",
    "Direct",
    "Jacobi",
    "LinearSolver",
    "Neumann",
    "NormalCG",
    "Products",
    "System",
    "as_solver",
    "solve",
]
