"""The extreme eigenvalues of a symmetric operator, with bounds on their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from .lanczos import Process
from .operators import LinearOperator


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
