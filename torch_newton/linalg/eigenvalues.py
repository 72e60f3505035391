"""The extreme eigenvalues of a symmetric operator, from products, with bounds on their errors.

Definiteness is stated only where the bounds leave no doubt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from .lanczos import Process
from .operators import LinearOperator

BETWEEN_CHECKS = 5
"""Lanczos steps between two looks at the Ritz values. A look at k steps diagonalises a k x k
matrix, so that one at each step would cost more than small products; at most four products are
taken in vain."""

CHANCE = 1e-10
"""The probability with which `Extremes.lowest` may fail: small enough that nobody will see it
happen, and cheap, since the gap grows only with the square of its logarithm."""


@dataclass(frozen=True)
class Eigenvalue:
    """One eigenvalue of a symmetric matrix.

    Attributes:
        value: the estimate.
        error_bound: an eigenvalue lies within this distance of `value`. It is the norm of the
            residual A y - value y of the unit vector y behind the estimate, plus rounding.
        converged: whether the bound is within the tolerance asked for.
    """

    value: float
    error_bound: float
    converged: bool

    def widened(self, rounding: float) -> Eigenvalue:
        """The same, with so much more for rounding in its error bound."""
        return replace(self, error_bound=self.error_bound + rounding)


@dataclass(frozen=True)
class Extremes:
    """The smallest and the largest eigenvalue, and how many products they took.

    Attributes:
        smallest: the smallest Ritz value, which is no smaller than the smallest eigenvalue.
        largest: the largest Ritz value, which is no larger than the largest eigenvalue.
        products: products taken.
        lowest: no eigenvalue lies below, except with the probability `CHANCE`. The bound of
            `smallest` alone does not say so: an eigenvalue lies near it, but a smaller one may
            have been missed altogether.
    """

    smallest: Eigenvalue
    largest: Eigenvalue
    products: int
    lowest: float = math.inf

    def shifted(self, damping: float) -> Extremes:
        """The extremes of A + damping I, if these are those of A."""
        return Extremes(
            replace(self.smallest, value=self.smallest.value + damping),
            replace(self.largest, value=self.largest.value + damping),
            self.products,
            self.lowest + damping,
        )

    @property
    def positive_definite(self) -> bool | None:
        """Whether the matrix is positive definite; None where the numbers do not decide it.

        A Ritz value is never below the smallest eigenvalue, so that one which is not positive
        proves that the matrix is not definite, converged or not. To be called definite, it must
        have a converged smallest Ritz value that is positive by more than its error bound, and
        a positive `lowest`.
        """
        smallest = self.smallest
        if smallest.value <= 0:
            return False
        if smallest.converged and smallest.value > smallest.error_bound and self.lowest > 0:
            return True
        return None


def extreme_eigenvalues(
    A: LinearOperator, *, tol: float = 1e-6, max_iter: int = 100, seed: int = 0
) -> Extremes:
    """The smallest and the largest eigenvalue of a symmetric operator, by the Lanczos process.

    Args:
        A: symmetric, n x n.
        tol: an eigenvalue has converged where its error bound, without rounding, is at most
            `tol` times the largest absolute Ritz value; six digits by default, more than a
            figure shows.
        max_iter: products at most, each with a vector of n entries to hold; with n or more the
            result is exact to rounding. The default is chosen by cost, that of 200 gradients.
        seed: of the first vector, which is Gaussian.

    Raises:
        ValueError: A is not square, or `max_iter` is not positive.
    """
    process = Process(A, max_iter, None, seed)
    while True:
        for _ in range(BETWEEN_CHECKS):
            if not process.finished:
                process.advance()
        found = extremes_of(process, tol)
        converged = found.smallest.converged and found.largest.converged
        # It takes more products to say that no eigenvalue lies below a converged positive one.
        undecided = found.smallest.value > 0 and found.positive_definite is None
        if process.finished or (converged and not undecided):
            return found


def extremes_of(process: Process, tol: float) -> Extremes:
    """The extremes that a Lanczos process from a Gaussian vector has found so far.

    Args:
        process: of one step or more.
        tol: as in `extreme_eigenvalues`.
    """
    values, bounds = process.result().ritz_pairs()
    norm = float(values.abs().max())
    # Each of the k products is rounded by about a unit of |A|, and T with it.
    rounding = len(values) * torch.finfo(process.A.dtype).eps * norm
    smallest, largest = (
        Eigenvalue(float(values[i]), float(bounds[i]) + rounding, float(bounds[i]) <= tol * norm)
        for i in (0, -1)
    )
    if process.residual == 0:
        lowest = smallest.value - rounding
    else:
        gap = _undershoot(process.A.shape[0], process.steps) * (largest.value - smallest.value)
        lowest = smallest.value - gap - rounding
    return Extremes(smallest, largest, process.steps, lowest)


def _undershoot(size: int, steps: int) -> float:
    r"""How far below the smallest Ritz value an eigenvalue may lie, in units of their spread.

    From a random start, :math:`\theta_{min} - \lambda_{min} > \varepsilon
    (\lambda_{max} - \lambda_{min})` has a probability of at most
    :math:`1.648\sqrt{n}\,e^{-\sqrt{\varepsilon}(2k - 1)}` after k steps (Kuczynski and
    Wozniakowski 1992, *Estimating the largest eigenvalue by the power and Lanczos algorithms
    with a random start*, theorem 4.2). With the same bound at the other end, the spread of the
    eigenvalues is at most :math:`1/(1 - 2\varepsilon)` times that of the Ritz values, which from
    :math:`\varepsilon = 1/2` on bounds nothing.
    """
    epsilon = (math.log(1.648 * math.sqrt(size) / CHANCE) / (2 * steps - 1)) ** 2
    return epsilon / (1 - 2 * epsilon) if epsilon < 0.5 else math.inf
