"""Derivatives of a loss by automatic differentiation, as products with vectors.

The Hessian, the Jacobian of the outputs and the Gauss-Newton matrix are linear operators that are
read off one graph; where that graph cannot be differentiated twice, finite differences of gradients
give the Hessian. What autograd keeps private is read in `nodes` alone.
"""

from .finite_difference import (
    NonFiniteProductError,
    finite,
    finite_difference_hessian,
    gradient_alone,
)
from .products import (
    NotTwiceDifferentiableError,
    gauss_newton,
    gradient,
    gradient_and_hessian,
    hessian,
    jacobian,
    jacobian_at,
    output_hessian,
)
from .verification import Asymmetry, Verdict, WrongHessianError, asymmetry, verify

__all__ = [
    "Asymmetry",
    "NonFiniteProductError",
    "NotTwiceDifferentiableError",
    "Verdict",
    "WrongHessianError",
    "asymmetry",
    "finite",
    "finite_difference_hessian",
    "gauss_newton",
    "gradient",
    "gradient_alone",
    "gradient_and_hessian",
    "hessian",
    "jacobian",
    "jacobian_at",
    "output_hessian",
    "verify",
]
