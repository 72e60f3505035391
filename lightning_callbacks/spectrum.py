"""The eigenvalues of a Hessian: all of them where it can be formed, estimates where it cannot."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torch_newton import (
    Eigenvalue,
    Extremes,
    Fraction,
    LinearOperator,
    SpectralDensity,
    extreme_eigenvalues,
    spectral_density,
    trace,
)
from torch_newton.linalg.eigenvalue_signs import (
    Inertia,
    NotFiniteError,
    dense_symmetric,
    rounding_of,
)

UNKNOWN = Extremes(
    Eigenvalue(math.nan, math.inf, False), Eigenvalue(math.nan, math.inf, False), 0, -math.inf
)
"""What is known of the eigenvalues of a matrix that is not finite."""

TRACE_PRODUCTS = 30
"""Products for an estimate of the trace, the default of `torch_newton.trace`."""

FAILURES = (torch.linalg.LinAlgError, NotFiniteError)  # type: ignore[attr-defined]
"""What the eigenvalue routines raise for a matrix that is not finite."""


@dataclass(frozen=True)
class Spectrum:
    """The eigenvalues of a symmetric matrix H, P x P, as far as they are known.

    Attributes:
        extremes: the smallest and the largest, with error bounds.
        negative: the share of eigenvalues below zero, with an interval.
        rounding: how far rounding in H's products may move an eigenvalue.
        eigenvalues: all P, ascending, float64; None where H was not formed.
        eigenvectors: P x P, float64, in the columns; None where H was not formed or they were
            not asked for.
        matrix: H itself, P x P, float64; None where it was not formed.
    """

    extremes: Extremes
    negative: Fraction
    rounding: float
    eigenvalues: Tensor | None = None
    eigenvectors: Tensor | None = None
    matrix: Tensor | None = None


def hessian_spectrum(
    H: LinearOperator,
    epsilon: float,
    *,
    exact_up_to: int,
    products: int,
    vectors: bool = True,
    asymmetry: float = 0.0,
) -> Spectrum | None:
    """The spectrum of H, exact up to `exact_up_to` parameters and from Lanczos runs beyond.

    With P <= `exact_up_to` the matrix is formed by P products, and all its eigenvalues are
    computed and counted. Otherwise the extremes come from at most `products` products, and the
    share of negative eigenvalues from stochastic Lanczos quadrature with 4 x 30 more, which bounds
    it from both sides with a probability of 95 %.

    Args:
        H: symmetric, P x P.
        epsilon: unit of rounding of the arithmetic behind its products.
        exact_up_to: the largest P for which the matrix is formed.
        products: Lanczos steps at most.
        vectors: whether eigenvectors are wanted of a matrix that is formed.
        asymmetry: the norm of H - H^T, by which an eigenvalue may be wrong where that is more
            than rounding.

    Returns:
        The spectrum, or None where H is not finite.
    """
    try:
        if H.shape[0] <= exact_up_to:
            return dense_spectrum(dense_symmetric(H), epsilon, vectors, asymmetry)
        found = lanczos_extremes(H, epsilon, products, asymmetry)
        if found is None:
            return None
        extremes, rounding = found
        return Spectrum(extremes, known_to(spectral_density(H), rounding).below(0.0), rounding)
    except FAILURES:
        return None


def lanczos_extremes(
    H: LinearOperator, epsilon: float, products: int, asymmetry: float = 0.0
) -> tuple[Extremes, float] | None:
    """The extreme eigenvalues of H from products alone, and the rounding in their error bounds.

    The rounding is k epsilon |H| after k products, or `asymmetry` where that is more, and the
    bounds include it.

    Returns:
        Both, or None where H is not finite.
    """
    try:
        extremes = extreme_eigenvalues(H, max_iter=products)
    except FAILURES:
        return None
    norm = max(abs(extremes.smallest.value), abs(extremes.largest.value))
    if not math.isfinite(norm):
        return None
    rounding = max(extremes.products * epsilon * norm, asymmetry)
    widened = Extremes(
        extremes.smallest.widened(rounding),
        extremes.largest.widened(rounding),
        extremes.products,
        extremes.lowest - rounding,
    )
    return widened, rounding


def dense_extremes(values: Tensor, rounding: float) -> Extremes:
    """The two ends of all eigenvalues, ascending, each known to `rounding`."""
    ends = [Eigenvalue(float(values[i]), rounding, True) for i in (0, -1)]
    return Extremes(ends[0], ends[1], len(values), ends[0].value - rounding)


def hessian_trace(
    H: LinearOperator, spectrum: Spectrum | None, products: int = TRACE_PRODUCTS
) -> tuple[float, float] | None:
    """The trace of H and its standard error; None where H is not finite.

    The sum of the eigenvalues where all are known, with their rounding as its error; else an
    estimate from as many products as given, by Hutch++.
    """
    if spectrum is not None and spectrum.eigenvalues is not None:
        values = spectrum.eigenvalues
        return float(values.sum()), spectrum.rounding * len(values)
    try:
        found = trace(H, products=products)
    except FAILURES:
        return None
    return (found.value, found.standard_error) if math.isfinite(found.value) else None


def known_to(density: SpectralDensity, rounding: float) -> SpectralDensity:
    """The same, of eigenvalues that rounding in the products may have moved so far.

    The density itself knows the rounding of its vectors only, which is less under autocast.
    """
    return replace(density, rounding=max(density.rounding, rounding))


def dense_spectrum(matrix: Tensor, epsilon: float, vectors: bool, asymmetry: float) -> Spectrum:
    """The spectrum of a matrix that is formed, symmetric and in double precision."""
    if vectors:
        values, basis = torch.linalg.eigh(matrix)
    else:
        values, basis = torch.linalg.eigvalsh(matrix), None
    rounding = max(rounding_of(values, epsilon), asymmetry)
    share = Inertia.of(values, rounding).negative_fraction
    return Spectrum(dense_extremes(values, rounding), share, rounding, values, basis, matrix)
