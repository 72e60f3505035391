"""All eigenvalues of a symmetric operator, from its matrix, and how many are negative.

An eigenvalue counts as negative or positive only where rounding cannot have decided its sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .operators import LinearOperator, check_square


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
        """The share that is negative; at most all undecided ones could be so, too."""
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
        """The inertia of eigenvalues that are known to within `rounding`."""
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
