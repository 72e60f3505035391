"""The extreme eigenvalues of the Hessian, and the definiteness of the damped one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torch_newton import Extremes, Fraction, LinearOperator
from torch_newton.linalg.eigenvalue_signs import rounding_of

from ..bounded import extremes_within
from ..point import Point
from ..spectrum import UNKNOWN, Spectrum, dense_extremes, lanczos_extremes
from .base import Measured, Need, Numbers, Quantity


class HessianNumbers(Quantity):
    """The ends and the signs of H's spectrum, and whether H + lambda I is positive definite."""

    name = "hessian"
    needs: frozenset[Need] = frozenset({Need.GRADIENT, Need.SPECTRUM})
    documentation: tuple[tuple[str, str], ...] = (
        ("hessian/lambda_min", "smallest eigenvalue of the exact Hessian H"),
        ("hessian/lambda_min_error", "an eigenvalue lies within this distance of it"),
        ("hessian/lambda_min_lowest", "none lies below, but for a chance of 1e-10"),
        ("hessian/lambda_max", "largest eigenvalue of H"),
        ("hessian/lambda_max_error", "an eigenvalue lies within this distance of it"),
        ("hessian/negative_fraction", "share of the P eigenvalues that are negative"),
        ("hessian/negative_fraction_low", "lower bound of it: sure, or with 95 %"),
        ("hessian/negative_fraction_high", "upper bound of it, likewise"),
        ("hessian/damped_lambda_min", "smallest eigenvalue of H + lambda I"),
        ("hessian/positive_definite", "1 or 0 for H + lambda I if proved, else NaN"),
    )

    def compute(self, point: Point) -> Measured:
        """The numbers, and all eigenvalues where H is formed."""
        assert point.spectrum is not None  # it is among the needs
        numbers = hessian_numbers(point.spectrum, point.damping)
        if point.scaling is not None:
            damped, rounding = _damped_by_lambda_d(point, point.spectrum, point.scaling)
            numbers |= _definiteness(damped, rounding)
        return Measured(numbers, point.spectrum.eigenvalues)

    def unknown(self) -> Numbers:
        """NaN for the eigenvalues, with infinite errors; and a share between 0 and 1."""
        share = Fraction(math.nan, 0.0, 1.0)
        return hessian_numbers(Spectrum(UNKNOWN, share, math.inf), math.nan)


def hessian_numbers(spectrum: Spectrum, damping: float) -> Numbers:
    """The logged numbers of H, and of H + `damping` I."""
    smallest, largest = spectrum.extremes.smallest, spectrum.extremes.largest
    return {
        "hessian/lambda_min": smallest.value,
        "hessian/lambda_min_error": smallest.error_bound,
        "hessian/lambda_min_lowest": spectrum.extremes.lowest,
        "hessian/lambda_max": largest.value,
        "hessian/lambda_max_error": largest.error_bound,
        "hessian/negative_fraction": spectrum.negative.value,
        "hessian/negative_fraction_low": spectrum.negative.low,
        "hessian/negative_fraction_high": spectrum.negative.high,
        **_definiteness(spectrum.extremes.shifted(damping), spectrum.rounding),
    }


def _definiteness(damped: Extremes, rounding: float) -> Numbers:
    definite = damped.positive_definite
    if abs(damped.smallest.value) <= rounding:
        definite = None  # this close to zero, its sign is that of the rounding errors
    return {
        "hessian/damped_lambda_min": damped.smallest.value,
        "hessian/positive_definite": math.nan if definite is None else float(definite),
    }


def _damped_by_lambda_d(
    point: Point, spectrum: Spectrum, scaling: Tensor
) -> tuple[Extremes, float]:
    """The extreme eigenvalues of H + lambda D, and how far rounding may move them."""
    H, shift = point.H, point.damping / scaling.square()
    if spectrum.matrix is None:
        D = LinearOperator(H.shape, shift.mul, shift.mul, H.dtype, H.device)
        epsilon, products = point.hessian_epsilon, point.settings.max_products
        asymmetry = point.asymmetry.size
        if point.allowance.unlimited:
            found = lanczos_extremes(H + D, epsilon, products, asymmetry)
        else:
            found = extremes_within(H + D, epsilon, point.allowance, products, asymmetry)
        return (UNKNOWN, math.inf) if found is None else found
    values = torch.linalg.eigvalsh(spectrum.matrix + torch.diag(shift.double()))
    rounding = max(rounding_of(values, point.hessian_epsilon), point.asymmetry.size)
    return dense_extremes(values, rounding), rounding
