"""Eigenvalues of a symmetric operator, with bounds on their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .cg import Tridiagonal
from .operators import LinearOperator


@dataclass(frozen=True)
class Lanczos:
    """k steps of the Lanczos process: A V = V T + residual e_k^T.

    Attributes:
        tridiagonal: T, k x k, float64 on the CPU.
        residual: norm of the remainder, beta_k; zero where the process ended early because V
            spans an invariant subspace.
    """

    tridiagonal: Tridiagonal
    residual: float

    def ritz_pairs(self) -> tuple[Tensor, Tensor]:
        """The k Ritz values, ascending, and for each the norm of its residual.

        Within that distance of each Ritz value lies an eigenvalue of A (Parlett 1998, *The
        symmetric eigenvalue problem*, theorem 4.5.1).
        """
        values, vectors = torch.linalg.eigh(self.tridiagonal.dense())
        return values, self.residual * vectors[-1].abs()

    def weights(self) -> Tensor:
        """Squared first entries of T's eigenvectors: weights of the Gauss quadrature."""
        _, vectors = torch.linalg.eigh(self.tridiagonal.dense())
        first: Tensor = vectors[0]
        return first.square()


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


def lanczos(
    A: LinearOperator, max_iter: int, *, start: Tensor | None = None, seed: int = 0
) -> Lanczos:
    """The Lanczos process with full reorthogonalisation, which keeps V orthogonal to rounding.

    Args:
        A: symmetric, n x n.
        max_iter: steps, one product and one vector of n entries each.
        start: the first vector; Gaussian from `seed` where none is given, drawn from a generator
            of its own.
        seed: of that generator.

    Raises:
        ValueError: A is not square, or `max_iter` is not positive.
    """
    process = _Process(A, max_iter, start, seed)
    while not process.finished:
        process.advance()
    return process.result()


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
    process = _Process(A, max_iter, None, seed)
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


def _extremes(process: _Process, tol: float) -> Extremes:
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


class _Process:
    """The Lanczos recursion, one step at a time."""

    def __init__(self, A: LinearOperator, max_iter: int, start: Tensor | None, seed: int) -> None:
        rows, columns = A.shape
        if rows != columns:
            raise ValueError(f"the operator must be square, not {rows} x {columns}")
        if max_iter < 1:
            raise ValueError(f"max_iter must be positive, not {max_iter}")
        if start is None:
            generator = torch.Generator().manual_seed(seed)
            start = torch.randn(rows, generator=generator, dtype=torch.float64)
        start = start.to(A.device, A.dtype)
        self.A = A
        self.capacity = min(max_iter, rows)
        self.basis = torch.empty(self.capacity, rows, dtype=A.dtype, device=A.device)
        self.next = start / torch.linalg.vector_norm(start)
        self.diagonal: list[float] = []
        self.off_diagonal: list[float] = []
        self.norm = 0.0
        self.residual = 1.0

    @property
    def steps(self) -> int:
        return len(self.diagonal)

    @property
    def finished(self) -> bool:
        return self.residual == 0 or self.steps == self.capacity

    def advance(self) -> None:
        v = self.next
        if self.steps:
            self.off_diagonal.append(self.residual)
        self.basis[self.steps] = v
        r = self.A @ v
        self.norm = max(self.norm, _norm(r))
        self.diagonal.append(float(v @ r))
        basis = self.basis[: self.steps]
        for _ in range(2):  # twice is enough (Parlett 1998, section 6.9)
            r = r - basis.T @ (basis @ r)
        self.residual = _norm(r)
        spanned = self.residual <= 10 * torch.finfo(v.dtype).eps * self.norm
        if spanned or self.steps == len(v):
            self.residual = 0.0
        else:
            self.next = r / self.residual

    def result(self) -> Lanczos:
        return Lanczos(
            Tridiagonal(
                torch.tensor(self.diagonal, dtype=torch.float64),
                torch.tensor(self.off_diagonal, dtype=torch.float64),
            ),
            self.residual,
        )


def _norm(v: Tensor) -> float:
    """|v|, also where the squares of its entries underflow."""
    largest = v.abs().max()
    if not largest > 0:
        return float(largest)
    return float(largest * torch.linalg.vector_norm(v / largest))


@dataclass(frozen=True)
class Fraction:
    """An estimated share between 0 and 1, and the standard error of the estimate."""

    value: float
    standard_error: float


def negative_fraction(
    A: LinearOperator, *, probes: int = 4, steps: int = 30, seed: int = 0
) -> Fraction:
    """The share of A's eigenvalues that are negative, by stochastic Lanczos quadrature.

    Each random probe v gives a Gauss quadrature of the spectral density, of which the weight
    below zero is summed (Ubaru, Chen, Saad 2017, *Fast estimation of tr(f(A)) via stochastic
    Lanczos quadrature*). With `steps` of n or more the quadrature is exact, and the error that
    remains is that of `probes` random vectors, which `standard_error` is. With fewer, eigenvalues
    nearer to zero than about |A| / steps are not resolved: where many crowd there, as they do
    for the Hessian of a network, the estimate is biased, and `standard_error` does not show it.

    Args:
        A: symmetric, n x n.
        probes: random vectors.
        steps: Lanczos steps for each, one product apiece.
        seed: of the random vectors.
    """
    if probes < 1:
        raise ValueError(f"probes must be positive, not {probes}")
    shares = []
    for probe in range(probes):
        process = lanczos(A, steps, seed=seed + probe)
        shares.append(float(process.weights()[process.tridiagonal.ritz_values() < 0].sum()))
    estimates = torch.tensor(shares, dtype=torch.float64)
    error = float(estimates.std() / math.sqrt(probes)) if probes > 1 else math.nan
    return Fraction(float(estimates.mean()), error)
