"""The Newton neural tangent kernel of the exact Hessian."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torch_newton import LinearOperator
from torch_newton.kernels.newton import newton_spectrum
from torch_newton.linalg.operators import congruent

from ..allowance import Allowance, OutOfTimeError
from ..point import Point
from .base import Measured, Need, Numbers
from .kernels import KernelNumbers, documented

PRODUCTS_OF_A_SYSTEM = 30
"""Products that a damped system is reckoned to take, where it is asked whether there is time: the
order of what conjugate gradients took on the networks of the tests."""


class ExactNewtonTangentKernel(KernelNumbers):
    r"""The Newton neural tangent kernel of the exact Hessian.

    :math:`Q^{1/2} J (H + \lambda I)^{-1} J^T Q^{1/2}`.
    """

    name = "nntk_hessian"
    needs: frozenset[Need] = frozenset(
        {Need.GRADIENT, Need.JACOBIAN, Need.SPECTRUM, Need.EIGENVECTORS}
    )
    documentation: tuple[tuple[str, str], ...] = (
        *documented(name, "the Newton kernel of H"),
        ("nntk_hessian/difference", "spectral norm of the difference between both"),
    )

    def compute(self, point: Point) -> Measured:
        """The numbers, and how far the kernel is from its Gauss-Newton form."""
        J = point.jacobian
        assert J is not None  # it is among the needs
        H, decomposition = _in_the_variables_of_the_step(point)
        if decomposition is None:  # a linear system a row
            systems = J.plain.rows * PRODUCTS_OF_A_SYSTEM
            point.allowance.require(systems * point.allowance.estimate("product"))
            H = within_pause(H, point.allowance)
        spectrum, exact = newton_spectrum(
            J.weighted,
            H,
            point.damping,
            rank=J.rank,
            decomposition=decomposition,
            epsilon=point.hessian_epsilon,
            max_size=point.settings.max_rows,
            products=point.settings.max_products,
        )
        difference = math.nan if exact is None else _difference(point, exact)
        numbers = self.numbers(spectrum) | {"nntk_hessian/difference": difference}
        return Measured(numbers, spectrum.eigenvalues)

    def unknown(self) -> Numbers:
        """NaN for the eigenvalues, with infinite errors, and for the difference."""
        return super().unknown() | {"nntk_hessian/difference": math.nan}


def within_pause(H: LinearOperator, allowance: Allowance) -> LinearOperator:
    """The same operator, whose products end with the pause of now.

    How many products a linear system takes is known when it is solved. Where they end too soon,
    twice the time is asked for.

    Raises:
        OutOfTimeError: at a product for which there is no time.
    """
    began = allowance.in_pause

    def product(v: Tensor) -> Tensor:
        columns = 1 if v.ndim == 1 else v.shape[1]
        if not allowance.fits(columns * allowance.estimate("product")):
            allowance.reduced = True
            raise OutOfTimeError(2 * (allowance.in_pause - began))
        return H @ v

    return LinearOperator(H.shape, product, product, H.dtype, H.device, product, product)


def _in_the_variables_of_the_step(
    point: Point,
) -> tuple[LinearOperator, tuple[Tensor, Tensor] | None]:
    """H, or D^{-1/2} H D^{-1/2} where the damping is scaled; and its eigenvectors if formed."""
    spectrum = point.spectrum
    assert spectrum is not None  # it is among the needs
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
    assert J is not None  # it is among the needs
    K = J.weighted.gram().double()
    values, vectors = torch.linalg.eigh((K + K.T) / 2)
    values = torch.where(values > 0, values / (values + point.damping), torch.zeros_like(values))
    return float(torch.linalg.matrix_norm(exact - (vectors * values) @ vectors.T, ord=2))
