"""The curvature of a loss as a few plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_newton import (
    Eigenvalue,
    Extremes,
    LinearOperator,
    RegNewton,
    extreme_eigenvalues,
    negative_fraction,
)

Numbers = dict[str, float]


@dataclass(frozen=True)
class Spectrum:
    """The Hessian's eigenvalues, as far as they are known.

    Attributes:
        extremes: the smallest and the largest, with error bounds.
        negative_fraction: the share of eigenvalues below zero.
        rounding: how far rounding in H's entries may move an eigenvalue.
        decomposition: all eigenvalues and the eigenvectors, where H was small enough.
    """

    extremes: Extremes
    negative_fraction: float
    rounding: float
    decomposition: tuple[Tensor, Tensor] | None

    def numbers(self, damping: float) -> Numbers:
        """The logged numbers of H, and of H + `damping` I."""
        smallest, largest = self.extremes.smallest, self.extremes.largest
        shifted = self.extremes.shifted(damping)
        definite = shifted.positive_definite
        if abs(shifted.smallest.value) <= self.rounding:
            definite = None  # this near to zero, its sign is that of the rounding errors
        return {
            "hessian/lambda_min": smallest.value,
            "hessian/lambda_min_error": smallest.error_bound,
            "hessian/lambda_max": largest.value,
            "hessian/negative_fraction": self.negative_fraction,
            "hessian/damped_lambda_min": shifted.smallest.value,
            "hessian/positive_definite": math.nan if definite is None else float(definite),
        }


def unknown_spectrum() -> Numbers:
    """The logged numbers of a Hessian that is not finite, or that nothing is known of."""
    unknown = Eigenvalue(math.nan, math.inf, False)
    return Spectrum(Extremes(unknown, unknown, 0), math.nan, math.inf, None).numbers(math.nan)


def hessian_spectrum(
    H: LinearOperator, epsilon: float, *, exact_up_to: int, products: int
) -> Spectrum | None:
    """The spectrum of H: exact where it is small, and by the Lanczos process where it is not.

    With P <= `exact_up_to` the matrix is formed by P products, and all its eigenvalues are
    computed; those within rounding of zero, ``P * epsilon * |H|``, count as not negative. Else
    the extremes come from at most `products` products, and the share of negative eigenvalues
    from stochastic Lanczos quadrature with 4 x 30 more: an estimate, which cannot tell the sign
    of eigenvalues that crowd much nearer to zero than |H|/30.

    Args:
        H: P x P.
        epsilon: unit of rounding of the arithmetic behind its products.
        exact_up_to: the largest P for which the matrix is formed.
        products: Lanczos steps at most.

    Returns:
        The spectrum, or None where H is not finite.
    """
    size = H.shape[0]
    try:
        if size <= exact_up_to:
            return _dense_spectrum(H, epsilon)
        extremes = extreme_eigenvalues(H, max_iter=products)
        share = negative_fraction(H).value
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return None
    norm = max(abs(extremes.smallest.value), abs(extremes.largest.value))
    if not math.isfinite(norm):
        return None
    rounding = extremes.products * epsilon * norm
    widened = Extremes(
        _widened(extremes.smallest, rounding),
        _widened(extremes.largest, rounding),
        extremes.products,
        extremes.lowest - rounding,
    )
    return Spectrum(widened, share, rounding, None)


def _dense_spectrum(H: LinearOperator, epsilon: float) -> Spectrum | None:
    matrix = H.dense().double()
    if not bool(torch.isfinite(matrix).all()):
        return None
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    rounding = len(values) * epsilon * float(values.abs().max())
    extremes = Extremes(
        Eigenvalue(float(values[0]), rounding, True),
        Eigenvalue(float(values[-1]), rounding, True),
        len(values),
        float(values[0]) - rounding,
    )
    share = float((values < -rounding).double().mean())
    return Spectrum(extremes, share, rounding, (values, vectors))


def _widened(eigenvalue: Eigenvalue, rounding: float) -> Eigenvalue:
    return Eigenvalue(eigenvalue.value, eigenvalue.error_bound + rounding, eigenvalue.converged)


def newton_numbers(optimizers: Sequence[torch.optim.Optimizer]) -> Numbers:
    """What the last step of a `RegNewton` among the optimizers did; empty where there is none."""
    for optimizer in optimizers:
        if isinstance(optimizer, RegNewton) and optimizer.last_step is not None:
            step = optimizer.last_step
            return {
                "newton/damping": step.damping,
                "newton/cg_iterations": float(step.cg_iterations),
                "newton/ratio": step.ratio,
                "newton/loss_after": step.loss_after,
            }
    return {}
