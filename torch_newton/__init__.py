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
from .density import SpectralDensity, negative_fraction, spectral_density
from .inertia import Fraction, Inertia, inertia
from .kernel_rows import KernelError
from .kernels import KernelSpectrum, kernel_spectrum, tangent_gram
from .lanczos import Lanczos, lanczos
from .minres import minimum_residual
from .newton_kernels import newton_tangent_gram
from .nystrom import Nystrom
from .observation import Observation
from .operators import LinearOperator, damped, from_dense, identity
from .optimizer import RegNewton
from .residuals import Residuals, Term, find_residuals
from .sampled_rows import SampledRows
from .solve import SolveError, inverse
from .spectrum import Eigenvalue, Extremes, extreme_eigenvalues
from .step import Arm, Path, Step, Stop
from .theory_damping import KernelMin, ResidualFollowing
from .trace import Trace, trace

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
    "Inertia",
    "KernelError",
    "KernelMin",
    "KernelSpectrum",
    "Lanczos",
    "LinearOperator",
    "NonFiniteLossError",
    "NotTwiceDifferentiableError",
    "Nystrom",
    "Observation",
    "Path",
    "RegNewton",
    "ResidualFollowing",
    "Residuals",
    "SampledRows",
    "Scale",
    "Solution",
    "SolveError",
    "SpectralDensity",
    "Step",
    "Stop",
    "Term",
    "Trace",
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
    "inertia",
    "inverse",
    "jacobian",
    "kernel_spectrum",
    "lanczos",
    "limit",
    "minimum_residual",
    "negative_fraction",
    "newton_tangent_gram",
    "newton_tangent_kernel",
    "nn",
    "spectral_density",
    "tangent_gram",
    "tangent_kernel",
    "trace",
    "width",
]
