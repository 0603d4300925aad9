"""Linear solvers: ``solve(matvec, b) -> (x, stats)``, one file each, and the derivative rule of a linear solve."""

from metafunc.linear.cg import CG
from metafunc.linear.direct import Direct
from metafunc.linear.neumann import Neumann
from metafunc.linear.solver import LinearSolver, as_solver
from metafunc.linear.system import System, solve

__all__ = ["CG", "Direct", "LinearSolver", "Neumann", "System", "as_solver", "solve"]
