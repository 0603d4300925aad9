"""Products with second derivatives of the inner objective: one file for each way to form them."""

from metafunc.curvature.central_difference import CentralDifference
from metafunc.curvature.curvature import Curvature, check_curvature
from metafunc.curvature.exact import Exact
from metafunc.curvature.gauss_newton import GaussNewton

__all__ = ["CentralDifference", "Curvature", "Exact", "GaussNewton", "check_curvature"]
