"""The curvature of a loss at one point, as plain numbers and as spectra."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_newton import (
    Eigenvalue,
    Extremes,
    Fraction,
    LinearOperator,
    RegNewton,
    Step,
    extreme_eigenvalues,
    negative_fraction,
    trace,
)
from torch_newton.linalg.eigenvalue_signs import (
    Inertia,
    NotFiniteError,
    dense_symmetric,
    rounding_of,
)

Numbers = dict[str, float]

UNKNOWN = Extremes(
    Eigenvalue(math.nan, math.inf, False), Eigenvalue(math.nan, math.inf, False), 0, -math.inf
)
"""What is known of the eigenvalues of a matrix that is not finite."""


@dataclass(frozen=True)
class Spectrum:
    """The Hessian's eigenvalues, as far as they are known.

    Attributes:
        extremes: the smallest and the largest, with error bounds.
        negative: the share of eigenvalues below zero, with an interval.
        trace: their sum, and the standard error of that.
        rounding: how far rounding in H's entries may move an eigenvalue.
        decomposition: all eigenvalues and the eigenvectors, where H was small enough.
        matrix: H itself, where it was formed.
    """

    extremes: Extremes
    negative: Fraction
    trace: tuple[float, float] | None
    rounding: float
    decomposition: tuple[Tensor, Tensor] | None
    matrix: Tensor | None = None

    def numbers(self, damping: float) -> Numbers:
        """The logged numbers of H, and of H + `damping` I."""
        smallest, largest = self.extremes.smallest, self.extremes.largest
        numbers = {
            "hessian/lambda_min": smallest.value,
            "hessian/lambda_min_error": smallest.error_bound,
            "hessian/lambda_min_lowest": self.extremes.lowest,
            "hessian/lambda_max": largest.value,
            "hessian/lambda_max_error": largest.error_bound,
            "hessian/negative_fraction": self.negative.value,
            "hessian/negative_fraction_low": self.negative.low,
            "hessian/negative_fraction_high": self.negative.high,
            **_definiteness(self.extremes.shifted(damping), self.rounding),
        }
        if self.trace is not None:
            numbers["hessian/trace"], numbers["hessian/trace_error"] = self.trace
        return numbers


def _definiteness(damped: Extremes, rounding: float) -> Numbers:
    definite = damped.positive_definite
    if abs(damped.smallest.value) <= rounding:
        definite = None  # this near to zero, its sign is that of the rounding errors
    return {
        "hessian/damped_lambda_min": damped.smallest.value,
        "hessian/positive_definite": math.nan if definite is None else float(definite),
    }


def scaled_definiteness(
    H: LinearOperator,
    spectrum: Spectrum,
    damping: float,
    scaling: Tensor,
    epsilon: float,
    *,
    products: int,
) -> Numbers:
    """What `Spectrum.numbers` says of H + damping I, of H + damping D instead.

    Args:
        H: P x P.
        spectrum: of H.
        damping: lambda.
        scaling: D^{-1/2}, P entries.
        epsilon: unit of rounding of the arithmetic behind H.
        products: Lanczos steps at most, where H was not formed.
    """
    shift = damping / scaling.square()
    if spectrum.matrix is None:
        added = LinearOperator(H.shape, shift.mul, shift.mul, H.dtype, H.device)
        damped = hessian_spectrum(H + added, epsilon, exact_up_to=0, products=products)
        if damped is None:
            return _definiteness(UNKNOWN, math.inf)
        return _definiteness(damped.extremes, damped.rounding)
    values = torch.linalg.eigvalsh(spectrum.matrix + torch.diag(shift.double()))
    rounding = rounding_of(values, epsilon)
    return _definiteness(_exact(values, rounding), rounding)


def unknown_spectrum(with_trace: bool = False) -> Numbers:
    """The logged numbers of a Hessian that is not finite, or that nothing is known of."""
    share = Fraction(math.nan, 0.0, 1.0)
    total = (math.nan, math.inf) if with_trace else None
    return Spectrum(UNKNOWN, share, total, math.inf, None).numbers(math.nan)


def hessian_spectrum(
    H: LinearOperator,
    epsilon: float,
    *,
    exact_up_to: int,
    products: int,
    with_trace: bool = False,
    vectors: bool = True,
) -> Spectrum | None:
    """The spectrum of H: exact where it is small, and by the Lanczos process where it is not.

    With P <= `exact_up_to` the matrix is formed by P products, and all its eigenvalues are
    computed and counted. Else the extremes come from at most `products` products; the share of
    negative eigenvalues from stochastic Lanczos quadrature with 4 x 30 more, which bounds it from
    both sides with a probability of 95 %; and the trace from 30 more.

    Args:
        H: P x P.
        epsilon: unit of rounding of the arithmetic behind its products.
        exact_up_to: the largest P for which the matrix is formed.
        products: Lanczos steps at most.
        with_trace: whether to estimate the trace where it is not free.
        vectors: whether eigenvectors are wanted.

    Returns:
        The spectrum, or None where H is not finite.
    """
    try:
        if H.shape[0] <= exact_up_to:
            return _dense_spectrum(H, epsilon, with_trace, vectors)
        extremes = extreme_eigenvalues(H, max_iter=products)
        norm = max(abs(extremes.smallest.value), abs(extremes.largest.value))
        if not math.isfinite(norm):
            return None
        share = negative_fraction(H)
        sampled = trace(H) if with_trace else None
    except (torch.linalg.LinAlgError, NotFiniteError):  # type: ignore[attr-defined]
        return None
    rounding = extremes.products * epsilon * norm
    widened = Extremes(
        _widened(extremes.smallest, rounding),
        _widened(extremes.largest, rounding),
        extremes.products,
        extremes.lowest - rounding,
    )
    total = None if sampled is None else (sampled.value, sampled.standard_error)
    return Spectrum(widened, share, total, rounding, None)


def _dense_spectrum(
    H: LinearOperator, epsilon: float, with_trace: bool, vectors: bool
) -> Spectrum | None:
    matrix = dense_symmetric(H)
    if vectors:
        values, basis = torch.linalg.eigh(matrix)
    else:
        values, basis = torch.linalg.eigvalsh(matrix), None
    rounding = rounding_of(values, epsilon)
    share = Inertia.of(values, rounding).negative_fraction
    total = (float(values.sum()), rounding * len(values)) if with_trace else None
    empty = values.new_empty(0, 0) if basis is None else basis
    return Spectrum(_exact(values, rounding), share, total, rounding, (values, empty), matrix)


def _exact(values: Tensor, rounding: float) -> Extremes:
    ends = [Eigenvalue(float(values[i]), rounding, True) for i in (0, -1)]
    return Extremes(ends[0], ends[1], len(values), ends[0].value - rounding)


def _widened(eigenvalue: Eigenvalue, rounding: float) -> Eigenvalue:
    return Eigenvalue(eigenvalue.value, eigenvalue.error_bound + rounding, eigenvalue.converged)


def last_newton_step(optimizers: Sequence[torch.optim.Optimizer]) -> Step | None:
    """What the last step of a `RegNewton` among the optimizers did; None where there is none."""
    for optimizer in optimizers:
        if isinstance(optimizer, RegNewton) and optimizer.last_step is not None:
            return optimizer.last_step
    return None


def newton_numbers(step: Step) -> Numbers:
    """The logged numbers of a step of `RegNewton`."""
    return {
        "newton/damping": step.damping,
        "newton/cg_iterations": float(step.cg_iterations),
        "newton/ratio": step.ratio,
        "newton/loss_after": step.loss_after,
    }
