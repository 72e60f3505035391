"""The tangent kernels of a loss, NTK and NNTK (see `torch_newton.kernels`)."""

from __future__ import annotations

import math

from torch_newton import Eigenvalue, KernelSpectrum

from ..point import Point
from .base import Measured, Need, Numbers, Quantity

UNKNOWN = KernelSpectrum(
    Eigenvalue(math.nan, math.inf, False), Eigenvalue(math.nan, math.inf, False)
)
"""What is known of a kernel that is not finite."""


def documented(name: str, kernel: str) -> tuple[tuple[str, str], ...]:
    """The documentation of a kernel's numbers."""
    return (
        (f"{name}/lambda_min", f"smallest eigenvalue of {kernel}"),
        (f"{name}/lambda_min_error", "an eigenvalue lies within this distance of it"),
        (f"{name}/lambda_max", f"largest eigenvalue of {kernel}"),
        (f"{name}/lambda_max_error", "an eigenvalue lies within this distance of it"),
        (f"{name}/condition_number", "largest over smallest absolute eigenvalue"),
    )


class KernelNumbers(Quantity):
    """The ends of a kernel's spectrum; a subclass says of which kernel."""

    needs: frozenset[Need] = frozenset({Need.GRADIENT, Need.KERNEL})

    def measured(self, spectrum: KernelSpectrum) -> Measured:
        """The numbers, and all eigenvalues where the kernel is formed."""
        return Measured(self.numbers(spectrum), spectrum.eigenvalues)

    def numbers(self, spectrum: KernelSpectrum) -> Numbers:
        """The logged numbers of a spectrum."""
        return {
            f"{self.name}/lambda_min": spectrum.smallest.value,
            f"{self.name}/lambda_min_error": spectrum.smallest.error_bound,
            f"{self.name}/lambda_max": spectrum.largest.value,
            f"{self.name}/lambda_max_error": spectrum.largest.error_bound,
            f"{self.name}/condition_number": spectrum.condition_number,
        }

    def unknown(self) -> Numbers:
        """NaN for the eigenvalues, with infinite errors."""
        return self.numbers(UNKNOWN)


class TangentKernel(KernelNumbers):
    r"""The neural tangent kernel, :math:`J J^T`."""

    name = "ntk"
    documentation: tuple[tuple[str, str], ...] = documented(name, "J J^T")

    def compute(self, point: Point) -> Measured:
        """From all rows where there is time to read them, else from products."""
        return self.measured(point.kernel) if point.kernel is not None else Measured({})


class NewtonTangentKernel(KernelNumbers):
    r"""The Newton neural tangent kernel in Gauss-Newton form.

    :math:`Q^{1/2} J (J^T Q J + \lambda I)^{-1} J^T Q^{1/2}` has the eigenvalues
    :math:`\kappa/(\kappa + \lambda)`, with :math:`\kappa` those of
    :math:`Q^{1/2} J J^T Q^{1/2}`.
    """

    name = "nntk"
    needs: frozenset[Need] = frozenset({Need.GRADIENT, Need.WEIGHTED_KERNEL})
    documentation: tuple[tuple[str, str], ...] = documented(
        name, "the Newton kernel, Gauss-Newton form"
    )

    def compute(self, point: Point) -> Measured:
        """From the eigenvalues of the weighted kernel."""
        kernel = point.weighted_kernel
        return Measured({}) if kernel is None else self.measured(kernel.newton(point.damping))
