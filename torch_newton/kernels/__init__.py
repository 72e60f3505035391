"""The neural tangent kernel and the Newton neural tangent kernel.

Each comes as an operator, which needs products only, as a matrix, and as eigenvalues with bounds
on their errors.
"""

from .newton import newton_gram, newton_spectrum, newton_tangent_gram
from .operators import newton_tangent_kernel, tangent_kernel
from .rows import KernelError, jacobian_of
from .spectra import KernelSpectrum, kernel_spectrum, tangent_gram

__all__ = [
    "KernelError",
    "KernelSpectrum",
    "jacobian_of",
    "kernel_spectrum",
    "newton_gram",
    "newton_spectrum",
    "newton_tangent_gram",
    "newton_tangent_kernel",
    "tangent_gram",
    "tangent_kernel",
]
