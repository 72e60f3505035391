"""The spectra that a limited time allows: by fewer Lanczos steps, with the bounds these leave."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from torch_newton import Eigenvalue, Extremes, KernelSpectrum, LinearOperator
from torch_newton.linalg.density import density_of
from torch_newton.linalg.eigenvalues import extremes_of
from torch_newton.linalg.lanczos import Process

from .allowance import Allowance
from .spectrum import FAILURES, Spectrum, hessian_spectrum

LEAST = 2
"""Products for which a spectrum is worth its evaluation: one Lanczos step for each end of it."""

TOLERANCE = 1e-6
"""Of an extreme eigenvalue, relative to the largest, at which the process ends; that of
`extreme_eigenvalues`."""

DENSITY_PRODUCTS = 120
"""Those that `negative_fraction` takes by default."""


def spectrum_within(
    H: LinearOperator,
    epsilon: float,
    allowance: Allowance,
    *,
    exact_up_to: int,
    products: int,
    vectors: bool,
    asymmetry: float = 0.0,
) -> Spectrum | None:
    """The spectrum of H as `hessian_spectrum` gives it where there is time, or with fewer products.

    With fewer, one Lanczos process from a Gaussian vector gives both the extremes and the share of
    negative eigenvalues. Its bounds hold after any number of steps, and are the wider the fewer.

    Args:
        H: symmetric, P x P.
        epsilon: unit of rounding of the arithmetic behind its products.
        allowance: the time that there is.
        exact_up_to: the largest P for which the matrix is formed.
        products: Lanczos steps at most.
        vectors: whether eigenvectors are wanted of a matrix that is formed.
        asymmetry: the norm of H - H^T, by which an eigenvalue may be wrong where that is more
            than rounding.

    Returns:
        The spectrum, or None where H is not finite.

    Raises:
        OutOfTimeError: there is no time for `LEAST` products.
    """
    product = allowance.estimate("product")
    allowance.require(LEAST * product)
    if H.shape[0] <= exact_up_to:
        whole = allowance.seconds_to_form(H, product) + seconds_to_diagonalise(H.shape[0])
    else:
        whole = (products + DENSITY_PRODUCTS) * product
    if allowance.affords(whole):
        return hessian_spectrum(
            H,
            epsilon,
            exact_up_to=exact_up_to,
            products=products,
            vectors=vectors,
            asymmetry=asymmetry,
        )
    allowance.reduced = True
    try:
        process = lanczos_within(H, "product", allowance, products)
        if process is None:
            return None
        extremes, rounding = _rounded(extremes_of(process, TOLERANCE), epsilon, asymmetry)
        share = density_of([process], [1.0]).below(0.0)
        return Spectrum(extremes, share, rounding)
    except FAILURES:
        return None


def extremes_within(
    H: LinearOperator,
    epsilon: float,
    allowance: Allowance,
    products: int,
    asymmetry: float = 0.0,
) -> tuple[Extremes, float] | None:
    """The extreme eigenvalues of H, and their rounding; None where H is not finite.

    The arguments and what is raised are those of `spectrum_within`.
    """
    allowance.require(LEAST * allowance.estimate("product"))
    process = lanczos_within(H, "product", allowance, products)
    if process is None:
        return None
    return _rounded(extremes_of(process, TOLERANCE), epsilon, asymmetry)


def kernel_within(
    K: LinearOperator, start: Tensor, epsilon: float, allowance: Allowance, products: int
) -> KernelSpectrum:
    """The extreme eigenvalues of a kernel K, R x R, by as many products as there is time for.

    Args:
        K: symmetric and positive semidefinite; its products are noted as those of a kernel.
        start: of the Lanczos process, in the range of K where not all of it is to be seen.
        epsilon: unit of rounding of the arithmetic behind its products.
        allowance: the time that there is.
        products: Lanczos steps at most.

    Raises:
        OutOfTimeError: there is no time for `LEAST` products.
    """
    allowance.reduced = True
    allowance.require(LEAST * allowance.estimate("kernel"))
    process = lanczos_within(K, "kernel", allowance, products, start)
    if process is None:
        unknown = Eigenvalue(math.nan, math.inf, False)
        return KernelSpectrum(unknown, unknown)
    found, _ = _rounded(extremes_of(process, TOLERANCE), epsilon)
    return KernelSpectrum(found.smallest, found.largest)


def first_vector(A: LinearOperator) -> Tensor:
    """A Gaussian vector from a generator of its own, of unit length."""
    random = torch.Generator().manual_seed(0)
    v = torch.randn(A.shape[0], generator=random, dtype=torch.float64).to(A.device, A.dtype)
    unit: Tensor = v / torch.linalg.vector_norm(v)
    return unit


def seconds_to_diagonalise(n: int) -> float:
    """An estimate for n x n: 0.1 s at 1,024 on one core, and the cube of n elsewhere."""
    return float(0.1 * (n / 1024) ** 3)


def lanczos_within(
    A: LinearOperator,
    name: str,
    allowance: Allowance,
    products: int,
    start: Tensor | None = None,
) -> Process | None:
    """Lanczos steps while there is time for another, and until both extremes have converged.

    Returns:
        The process; None where A is not finite.

    Raises:
        OutOfTimeError: the first product leaves no time for a second.
    """
    cost = allowance.estimate(name)
    count = products if cost == 0 else max(LEAST, min(products, int(allowance.left() / cost)))
    process = Process(A, count, first_vector(A) if start is None else start, 0)
    while not process.finished:
        process.advance()
        if not math.isfinite(process.residual):
            return None
        if process.steps < LEAST:
            # The first product may have taken longer than it was reckoned to.
            allowance.require(allowance.costs.last(name))
            continue
        # The timed product is the dearer part of a step, but not all of it.
        if not allowance.more(1.2 * allowance.costs.last(name)):
            break
        if process.steps % 5 == 0:  # as often as in extreme_eigenvalues, for the same reason
            found = extremes_of(process, TOLERANCE)
            if found.smallest.converged and found.largest.converged:
                break
    return process


def _rounded(extremes: Extremes, epsilon: float, asymmetry: float = 0.0) -> tuple[Extremes, float]:
    """The same with k epsilon |A| after k products in the error bounds, and that number.

    It is `asymmetry` where that is more.
    """
    norm = max(abs(extremes.smallest.value), abs(extremes.largest.value))
    rounding = max(extremes.products * epsilon * norm, asymmetry)
    return (
        Extremes(
            _widened(extremes.smallest, rounding),
            _widened(extremes.largest, rounding),
            extremes.products,
            extremes.lowest - rounding,
        ),
        rounding,
    )


def _widened(eigenvalue: Eigenvalue, rounding: float) -> Eigenvalue:
    return replace(eigenvalue, error_bound=eigenvalue.error_bound + rounding)
