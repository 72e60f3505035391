"""The tangent kernels of a loss, NTK and NNTK, in numbers (see `torch_newton.kernels`)."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from torch_newton import Eigenvalue, KernelSpectrum, LinearOperator, kernel_spectrum
from torch_newton.kernels.newton import newton_spectrum
from torch_newton.linalg.operators import congruent

from ..point import Point
from .base import Measured, Need, Numbers, Quantity

UNKNOWN = KernelSpectrum(
    Eigenvalue(math.nan, math.inf, False), Eigenvalue(math.nan, math.inf, False)
)
"""What is known of a kernel that is not finite."""


def _rows(name: str, kernel: str) -> tuple[tuple[str, str], ...]:
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

    needs = frozenset({Need.GRADIENT, Need.JACOBIAN})

    @abstractmethod
    def kernel(self, point: Point) -> KernelSpectrum:
        """The spectrum of the kernel."""

    def compute(self, point: Point) -> Measured:
        """The numbers, and all eigenvalues where the kernel is formed."""
        spectrum = self.kernel(point)
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
    documentation = _rows(name, "J J^T")

    def kernel(self, point: Point) -> KernelSpectrum:
        """From the weighted kernel where that is a multiple of it, and else from J."""
        J = point.jacobian
        assert J is not None
        if J.scale is not None:
            return point.weighted_kernel.scaled(J.scale**-2)
        return kernel_spectrum(
            J.plain,
            epsilon=point.epsilon,
            max_size=point.settings.max_rows,
            products=point.settings.max_products,
        )


class NewtonTangentKernel(KernelNumbers):
    r"""The Newton neural tangent kernel in Gauss-Newton form.

    :math:`Q^{1/2} J (J^T Q J + \lambda I)^{-1} J^T Q^{1/2}` has the eigenvalues
    :math:`\kappa/(\kappa + \lambda)`, with :math:`\kappa` those of
    :math:`Q^{1/2} J J^T Q^{1/2}`.
    """

    name = "nntk"
    documentation = _rows(name, "the Newton kernel, Gauss-Newton form")

    def kernel(self, point: Point) -> KernelSpectrum:
        """From the eigenvalues of the weighted kernel."""
        return point.weighted_kernel.newton(point.damping)


class ExactNewtonTangentKernel(KernelNumbers):
    r"""The Newton neural tangent kernel of the exact Hessian.

    :math:`Q^{1/2} J (H + \lambda I)^{-1} J^T Q^{1/2}`.
    """

    name = "nntk_hessian"
    needs = frozenset({Need.GRADIENT, Need.JACOBIAN, Need.SPECTRUM, Need.EIGENVECTORS})
    documentation = (
        *_rows(name, "the Newton kernel of H"),
        ("nntk_hessian/difference", "spectral norm of the difference between both"),
    )

    def kernel(self, point: Point) -> KernelSpectrum:
        """The spectrum alone."""
        return self._formed(point)[0]

    def compute(self, point: Point) -> Measured:
        """The numbers, and how far the kernel is from its Gauss-Newton form."""
        spectrum, exact = self._formed(point)
        difference = math.nan if exact is None else _difference(point, exact)
        numbers = self.numbers(spectrum) | {"nntk_hessian/difference": difference}
        return Measured(numbers, spectrum.eigenvalues)

    def unknown(self) -> Numbers:
        """NaN for the eigenvalues, with infinite errors, and for the difference."""
        return super().unknown() | {"nntk_hessian/difference": math.nan}

    def _formed(self, point: Point) -> tuple[KernelSpectrum, Tensor | None]:
        """The spectrum, and the matrix itself where it is formed."""
        J = point.jacobian
        assert J is not None
        H, decomposition = _in_the_variables_of_the_step(point)
        return newton_spectrum(
            J.weighted,
            H,
            point.damping,
            rank=J.rank,
            decomposition=decomposition,
            epsilon=point.epsilon,
            max_size=point.settings.max_rows,
            products=point.settings.max_products,
        )


def _in_the_variables_of_the_step(
    point: Point,
) -> tuple[LinearOperator, tuple[Tensor, Tensor] | None]:
    """H, or D^{-1/2} H D^{-1/2} where the damping is scaled; and its eigenvectors if formed."""
    spectrum = point.spectrum
    assert spectrum is not None
    if point.scaling is None:
        if spectrum.eigenvalues is None or spectrum.eigenvectors is None:
            return point.H, None
        return point.H, (spectrum.eigenvalues, spectrum.eigenvectors)
    H = congruent(point.H, point.scaling)
    if spectrum.matrix is None:
        return H, None
    e = point.scaling.double()
    values, vectors = torch.linalg.eigh(e[:, None] * spectrum.matrix * e)
    return H, (values, vectors)


def _difference(point: Point, exact: Tensor) -> float:
    r"""The norm of the exact kernel less K (K + lambda I)^{-1}, K being the weighted kernel."""
    J = point.jacobian
    assert J is not None
    K = J.weighted.gram().double()
    values, vectors = torch.linalg.eigh((K + K.T) / 2)
    values = torch.where(values > 0, values / (values + point.damping), torch.zeros_like(values))
    return float(torch.linalg.matrix_norm(exact - (vectors * values) @ vectors.T, ord=2))
