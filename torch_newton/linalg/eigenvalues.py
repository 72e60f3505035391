"""Eigenvalues of a symmetric operator: the extreme ones from products, or all from the matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .lanczos import Process
from .operators import LinearOperator, check_square


@dataclass(frozen=True)
class Eigenvalue:
    """One eigenvalue of a symmetric matrix.

    Attributes:
        value: the estimate.
        error_bound: an eigenvalue lies within this distance of `value`; residual norm and
            rounding.
        converged: whether the bound met the tolerance asked for.
    """

    value: float
    error_bound: float
    converged: bool


@dataclass(frozen=True)
class Extremes:
    """The smallest and the largest eigenvalue, and how many products they took.

    Attributes:
        smallest: as it converged.
        largest: as it converged.
        products: products taken.
        lowest: no eigenvalue lies below, except with a probability of 1e-10. The bound of
            `smallest` alone does not tell: a smaller eigenvalue may be missing altogether.
    """

    smallest: Eigenvalue
    largest: Eigenvalue
    products: int
    lowest: float = math.inf

    def shifted(self, damping: float) -> Extremes:
        """Those of A + damping I, if these are those of A."""
        return Extremes(
            replace(self.smallest, value=self.smallest.value + damping),
            replace(self.largest, value=self.largest.value + damping),
            self.products,
            self.lowest + damping,
        )

    @property
    def positive_definite(self) -> bool | None:
        """Whether the matrix is positive definite; None where the numbers do not tell.

        A Ritz value is never below the smallest eigenvalue, so a negative one proves
        indefiniteness, converged or not. True needs a converged one that is positive by more
        than its error bound, and a positive `lowest`.
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
        tol: each is converged where its error bound is at most `tol` times the largest absolute
            Ritz value.
        max_iter: products at most; with n or more the result is exact to rounding.
        seed: of the first vector.

    Raises:
        ValueError: A is not square, or `max_iter` is not positive.
    """
    process = Process(A, max_iter, None, seed)
    while True:
        for _ in range(5):
            if not process.finished:
                process.advance()
        found = _extremes(process, tol)
        converged = found.smallest.converged and found.largest.converged
        # Whether a converged positive value is the smallest takes more products to say.
        undecided = found.smallest.value > 0 and found.positive_definite is None
        if process.finished or (converged and not undecided):
            return found


def _extremes(process: Process, tol: float) -> Extremes:
    values, bounds = process.result().ritz_pairs()
    norm = float(values.abs().max())
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


def _undershoot(size: int, steps: int, chance: float = 1e-10) -> float:
    r"""How far below the smallest Ritz value an eigenvalue may lie, in units of their spread.

    From a random start, :math:`\theta_{min} - \lambda_{min} > \varepsilon
    (\lambda_{max} - \lambda_{min})` has a probability of at most
    :math:`1.648\sqrt{n}\,e^{-\sqrt{\varepsilon}(2k - 1)}` after k steps (Kuczynski and
    Wozniakowski 1992, *Estimating the largest eigenvalue by the power and Lanczos algorithms
    with a random start*, theorem 4.2). The same bound at the other end turns the spread of
    the eigenvalues into that of the Ritz values.
    """
    epsilon = (math.log(1.648 * math.sqrt(size) / chance) / (2 * steps - 1)) ** 2
    return epsilon / (1 - 2 * epsilon) if epsilon < 0.5 else math.inf


class NotFiniteError(ValueError):
    """A matrix has entries that are not finite."""


@dataclass(frozen=True)
class Inertia:
    """The signs of the n eigenvalues of a symmetric matrix (Sylvester 1852).

    Attributes:
        negative: how many are negative by more than `rounding`.
        undecided: how many are nearer to zero than that, so that rounding errors decide their
            sign; exact zeros are among them.
        positive: how many are positive by more than `rounding`.
        rounding: the distance within which the eigenvalues are known.
    """

    negative: int
    undecided: int
    positive: int
    rounding: float

    @property
    def size(self) -> int:
        """n."""
        return self.negative + self.undecided + self.positive

    @property
    def negative_fraction(self) -> Fraction:
        """The share that is negative; no more than the undecided ones could add to it."""
        low = self.negative / self.size
        return Fraction(low, low, (self.negative + self.undecided) / self.size)

    @property
    def positive_definite(self) -> bool | None:
        """Whether all are positive; None where rounding decides."""
        if self.negative:
            return False
        return None if self.undecided else True

    @classmethod
    def of(cls, eigenvalues: Tensor, rounding: float) -> Inertia:
        """That of eigenvalues known to `rounding`."""
        negative = int((eigenvalues < -rounding).sum())
        positive = int((eigenvalues > rounding).sum())
        return cls(negative, len(eigenvalues) - negative - positive, positive, rounding)


@dataclass(frozen=True)
class Fraction:
    """A share between 0 and 1.

    Attributes:
        value: the estimate.
        low: the share is not smaller.
        high: the share is not larger.
        confidence: the probability that both hold; 1 where nothing was drawn at random.
    """

    value: float
    low: float
    high: float
    confidence: float = 1.0


def inertia(A: LinearOperator, *, epsilon: float | None = None) -> Inertia:
    """The exact signs of A's eigenvalues: A is formed by n products and diagonalised.

    Args:
        A: symmetric, n x n.
        epsilon: unit of rounding of the arithmetic behind A's entries; that of its dtype where
            none is given. Eigenvalues are known to ``n * epsilon * |A|``.

    Raises:
        ValueError: A is not square.
        NotFiniteError: A is not finite.
    """
    values, rounding = dense_eigenvalues(A, epsilon=epsilon)
    return Inertia.of(values, rounding)


def dense_eigenvalues(A: LinearOperator, *, epsilon: float | None = None) -> tuple[Tensor, float]:
    """All eigenvalues of A, ascending, float64, and how far rounding may have moved each.

    The arguments and what is raised are those of `inertia`.
    """
    matrix = dense_symmetric(A)
    values: Tensor = torch.linalg.eigvalsh(matrix)
    return values, rounding_of(values, epsilon or torch.finfo(A.dtype).eps)


def dense_symmetric(A: LinearOperator) -> Tensor:
    """A as a float64 matrix, made symmetric where rounding is not.

    Raises:
        ValueError: A is not square.
        NotFiniteError: A is not finite.
    """
    check_square(A)
    matrix = A.dense().double()
    if not bool(torch.isfinite(matrix).all()):
        raise NotFiniteError("the matrix is not finite: look for overflow in what it is made of")
    return (matrix + matrix.T) / 2


def rounding_of(eigenvalues: Tensor, epsilon: float) -> float:
    """n epsilon |A|: how far rounding in A's entries may move an eigenvalue."""
    return len(eigenvalues) * epsilon * float(eigenvalues.abs().max())
