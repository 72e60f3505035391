"""Numerical linear algebra that knows no autograd: operators, solvers, eigenvalues, Jacobians.

A `LinearOperator` is all that the solvers and the estimates of eigenvalues see of a matrix. The
functions `conjugate_gradient`, `lanczos` and `gram` are not listed here because they have the
names of their modules; the first two are exported by `torch_newton` itself.
"""

from .density import SpectralDensity, negative_fraction, spectral_density
from .eigenvalue_signs import (
    Fraction,
    Inertia,
    NotFiniteError,
    dense_eigenvalues,
    dense_symmetric,
    inertia,
    rounding_of,
)
from .eigenvalues import Eigenvalue, Extremes, extreme_eigenvalues
from .factor import Factor
from .factored_jacobian import FactoredJacobian
from .flat import filled, flatten, norm, unflatten
from .indexed_factor import IndexedFactor
from .lanczos import Lanczos, Tridiagonal
from .minres import minimum_residual
from .normal_equations import normal_matrix
from .operators import (
    LinearOperator,
    congruent,
    damped,
    from_dense,
    identity,
    in_dtype,
    symmetric,
)
from .pivoted_cholesky import PivotedCholesky
from .precision import solving_dtype
from .row_compression import compressed
from .solution import Solution, Stop
from .solve import SolveError, inverse, solve_symmetric
from .trace_estimation import Trace, trace

__all__ = [
    "Eigenvalue",
    "Extremes",
    "Factor",
    "FactoredJacobian",
    "Fraction",
    "IndexedFactor",
    "Inertia",
    "Lanczos",
    "LinearOperator",
    "NotFiniteError",
    "PivotedCholesky",
    "Solution",
    "SolveError",
    "SpectralDensity",
    "Stop",
    "Trace",
    "Tridiagonal",
    "compressed",
    "congruent",
    "damped",
    "dense_eigenvalues",
    "dense_symmetric",
    "extreme_eigenvalues",
    "filled",
    "flatten",
    "from_dense",
    "identity",
    "in_dtype",
    "inertia",
    "inverse",
    "minimum_residual",
    "negative_fraction",
    "norm",
    "normal_matrix",
    "rounding_of",
    "solve_symmetric",
    "solving_dtype",
    "spectral_density",
    "symmetric",
    "trace",
    "unflatten",
]
