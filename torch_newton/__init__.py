"""Newton's method for neural networks, damped as the theory of wide networks says."""

from importlib.metadata import PackageNotFoundError, version

from . import limit, nn
from .cg import Solution, Tridiagonal, conjugate_gradient
from .closure import Captured, ClosureError, NonFiniteLossError, capture
from .curvature import (
    NotTwiceDifferentiableError,
    gauss_newton,
    gradient,
    gradient_and_hessian,
    hessian,
    jacobian,
    newton_tangent_kernel,
    tangent_kernel,
)
from .damping import Adaptive, Attempt, Fixed, Scale, WidthScaled, width
from .minres import minimum_residual
from .operators import LinearOperator, damped, from_dense, identity
from .optimizer import RegNewton
from .residuals import Residuals, Term, find_residuals
from .solve import SolveError, inverse
from .spectrum import (
    Eigenvalue,
    Extremes,
    Fraction,
    Lanczos,
    extreme_eigenvalues,
    lanczos,
    negative_fraction,
)
from .step import Arm, Path, Step, Stop
from .theory_damping import KernelMin, ResidualFollowing

try:
    __version__ = version("torch-newton")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"

__all__ = [
    "Adaptive",
    "Arm",
    "Attempt",
    "Captured",
    "ClosureError",
    "Eigenvalue",
    "Extremes",
    "Fixed",
    "Fraction",
    "KernelMin",
    "Lanczos",
    "LinearOperator",
    "NonFiniteLossError",
    "NotTwiceDifferentiableError",
    "Path",
    "RegNewton",
    "ResidualFollowing",
    "Residuals",
    "Scale",
    "Solution",
    "SolveError",
    "Step",
    "Stop",
    "Term",
    "Tridiagonal",
    "WidthScaled",
    "capture",
    "conjugate_gradient",
    "damped",
    "extreme_eigenvalues",
    "find_residuals",
    "from_dense",
    "gauss_newton",
    "gradient",
    "gradient_and_hessian",
    "hessian",
    "identity",
    "inverse",
    "jacobian",
    "lanczos",
    "limit",
    "minimum_residual",
    "negative_fraction",
    "newton_tangent_kernel",
    "nn",
    "tangent_kernel",
    "width",
]
