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
from torch_newton.inertia import Inertia, NotFiniteError, dense_symmetric, rounding_of

Numbers = dict[str, float]


@dataclass(frozen=True)
class Spectrum:
    """The Hessian's eigenvalues, as far as they are known.

    Attributes:
        extremes: the smallest and the largest, with error bounds.
        negative: the share of eigenvalues below zero, with an interval.
        trace: their sum, and the standard error of that.
        rounding: how far rounding in H's entries may move an eigenvalue.
        decomposition: all eigenvalues and the eigenvectors, where H was small enough.
    """

    extremes: Extremes
    negative: Fraction
    trace: tuple[float, float] | None
    rounding: float
    decomposition: tuple[Tensor, Tensor] | None

    def numbers(self, damping: float) -> Numbers:
        """The logged numbers of H, and of H + `damping` I."""
        smallest, largest = self.extremes.smallest, self.extremes.largest
        shifted = self.extremes.shifted(damping)
        definite = shifted.positive_definite
        if abs(shifted.smallest.value) <= self.rounding:
            definite = None  # this near to zero, its sign is that of the rounding errors
        numbers = {
            "hessian/lambda_min": smallest.value,
            "hessian/lambda_min_error": smallest.error_bound,
            "hessian/lambda_min_lowest": self.extremes.lowest,
            "hessian/lambda_max": largest.value,
            "hessian/lambda_max_error": largest.error_bound,
            "hessian/negative_fraction": self.negative.value,
            "hessian/negative_fraction_low": self.negative.low,
            "hessian/negative_fraction_high": self.negative.high,
            "hessian/damped_lambda_min": shifted.smallest.value,
            "hessian/positive_definite": math.nan if definite is None else float(definite),
        }
        if self.trace is not None:
            numbers["hessian/trace"], numbers["hessian/trace_error"] = self.trace
        return numbers


def unknown_spectrum(with_trace: bool = False) -> Numbers:
    """The logged numbers of a Hessian that is not finite, or that nothing is known of."""
    unknown = Eigenvalue(math.nan, math.inf, False)
    extremes = Extremes(unknown, unknown, 0, -math.inf)
    share = Fraction(math.nan, 0.0, 1.0)
    total = (math.nan, math.inf) if with_trace else None
    return Spectrum(extremes, share, total, math.inf, None).numbers(math.nan)


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
    extremes = Extremes(
        Eigenvalue(float(values[0]), rounding, True),
        Eigenvalue(float(values[-1]), rounding, True),
        len(values),
        float(values[0]) - rounding,
    )
    share = Inertia.of(values, rounding).negative_fraction
    total = (float(values.sum()), rounding * len(values)) if with_trace else None
    empty = values.new_empty(0, 0) if basis is None else basis
    return Spectrum(extremes, share, total, rounding, (values, empty))


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
