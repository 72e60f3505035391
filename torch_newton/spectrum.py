"""Eigenvalues of a symmetric operator, with bounds on their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    """The smallest and the largest eigenvalue, and how many products they took."""

    smallest: Eigenvalue
    largest: Eigenvalue
    products: int

    @property
    def positive_definite(self) -> bool | None:
        """Whether the matrix is positive definite; None where the numbers do not tell.

        A Ritz value is never below the smallest eigenvalue, so a negative one proves
        indefiniteness, converged or not. True needs a converged one that is positive by more
        than its error bound.
        """
        if self.smallest.value < -self.smallest.error_bound or self.smallest.value <= 0:
            return False
        if self.smallest.converged and self.smallest.value > self.smallest.error_bound:
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
    while process.steps < process.capacity and process.residual > 0:
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
    smallest = largest = Eigenvalue(math.nan, math.inf, False)
    while not (smallest.converged and largest.converged):
        for _ in range(5):
            if process.residual > 0 and process.steps < process.capacity:
                process.advance()
        values, bounds = process.result().ritz_pairs()
        norm = float(values.abs().max())
        rounding = len(values) * torch.finfo(A.dtype).eps * norm
        smallest, largest = (
            Eigenvalue(
                float(values[i]), float(bounds[i]) + rounding, float(bounds[i]) <= tol * norm
            )
            for i in (0, -1)
        )
        if process.residual == 0 or process.steps == process.capacity:
            break
    return Extremes(smallest, largest, process.steps)


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

    def advance(self) -> None:
        v = self.next
        if self.steps:
            self.off_diagonal.append(self.residual)
        self.basis[self.steps] = v
        r = self.A @ v
        self.norm = max(self.norm, float(torch.linalg.vector_norm(r)))
        self.diagonal.append(float(v @ r))
        basis = self.basis[: self.steps]
        for _ in range(2):  # twice is enough (Parlett 1998, section 6.9)
            r = r - basis.T @ (basis @ r)
        self.residual = float(torch.linalg.vector_norm(r))
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
    Lanczos quadrature*). With `steps` of n or more the quadrature is exact and the error that
    remains is that of `probes` random vectors.

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
