"""Newton's method for neural networks, damped as the theory of wide networks says."""

import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from . import limit, nn
from .autodiff.products import (
    NotTwiceDifferentiableError,
    gauss_newton,
    gradient,
    gradient_and_hessian,
    hessian,
    jacobian,
)
from .closure.capture import Captured, ClosureError, NonFiniteLossError, capture
from .curvature import Curvature
from .damping import (
    Adaptive,
    Attempt,
    DampingContext,
    DampingRule,
    Fixed,
    KernelMin,
    MiniBatch,
    ResidualFollowing,
    RetryingRule,
    WidthScaled,
    width,
)
from .graph.guard import UnreadableGraphWarning
from .graph.residuals import Residuals, Term, find_residuals
from .kernels.newton import newton_tangent_gram
from .kernels.operators import newton_tangent_kernel, tangent_kernel
from .kernels.rows import KernelError
from .kernels.spectra import KernelSpectrum, kernel_spectrum, tangent_gram
from .linalg.conjugate_gradient import conjugate_gradient
from .linalg.density import SpectralDensity, negative_fraction, spectral_density
from .linalg.eigenvalue_signs import Fraction, Inertia, inertia
from .linalg.eigenvalues import Eigenvalue, Extremes, extreme_eigenvalues
from .linalg.lanczos import Lanczos, Tridiagonal, lanczos
from .linalg.minres import minimum_residual
from .linalg.operators import LinearOperator, damped, from_dense, identity
from .linalg.solution import Solution, Stop
from .linalg.solve import SolveError, inverse
from .linalg.trace_estimation import Trace, trace
from .newton.observation import Observation
from .optimizer import RegNewton
from .preconditioners.base import Preconditioner
from .preconditioners.nystrom import Nystrom
from .preconditioners.sampled_rows import SampledRows
from .step import CandidateSystem, Convergence, Path, Step

try:
    __version__ = version("torch-newton")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"

__all__ = [
    "Adaptive",
    "Attempt",
    "CandidateSystem",
    "Captured",
    "ClosureError",
    "Convergence",
    "Curvature",
    "DampingContext",
    "DampingRule",
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
    "MiniBatch",
    "NonFiniteLossError",
    "NotTwiceDifferentiableError",
    "Nystrom",
    "Observation",
    "Path",
    "Preconditioner",
    "RegNewton",
    "ResidualFollowing",
    "Residuals",
    "RetryingRule",
    "SampledRows",
    "Solution",
    "SolveError",
    "SpectralDensity",
    "Step",
    "Stop",
    "Term",
    "Trace",
    "Tridiagonal",
    "UnreadableGraphWarning",
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


_RENAMED = {"Arm": "CandidateSystem", "Scale": "DampingContext"}


def __getattr__(name: str) -> Any:
    """Names of version 0.1, under which what they became can still be imported."""
    if name in _RENAMED:
        warnings.warn(
            f"torch_newton.{name} is now torch_newton.{_RENAMED[name]}",
            DeprecationWarning,
            stacklevel=2,
        )
        return globals()[_RENAMED[name]]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
