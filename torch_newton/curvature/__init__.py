"""Curvatures: the matrices that a step can be solved with, and what they are computed from."""

from .base import Curvature
from .gauss_newton import GaussNewton
from .hessian import Hessian
from .kronecker import Kronecker
from .linearization import Linearization
from .table import CURVATURES

__all__ = ["CURVATURES", "Curvature", "GaussNewton", "Hessian", "Kronecker", "Linearization"]
