"""The Lanczos process: the projection of a symmetric operator on a Krylov space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .operators import LinearOperator, check_square

DENSE_UP_TO = 1000
"""Steps up to which the extreme Ritz value is taken from the matrix: its k^3 operations then take
some tenths of a second. Of the 10 n steps that a solve may take the matrix need not fit into
memory."""


@dataclass(frozen=True)
class Tridiagonal:
    """The symmetric tridiagonal matrix that k Lanczos steps build.

    Its eigenvalues are the Ritz values: approximations to eigenvalues of the operator, of which
    the extreme ones converge first.

    Attributes:
        diagonal: k entries, float64 on the CPU.
        off_diagonal: k - 1 entries.
    """

    diagonal: Tensor
    off_diagonal: Tensor

    @classmethod
    def of(cls, diagonal: Sequence[float], off_diagonal: Sequence[float]) -> Tridiagonal:
        """The matrix with k numbers on its diagonal and k - 1 beside it."""
        return cls(
            torch.tensor(diagonal, dtype=torch.float64),
            torch.tensor(off_diagonal, dtype=torch.float64),
        )

    def dense(self) -> Tensor:
        """The matrix itself, k x k."""
        matrix = torch.diag(self.diagonal)
        if len(self.off_diagonal):
            matrix += torch.diag(self.off_diagonal, 1) + torch.diag(self.off_diagonal, -1)
        return matrix

    def ritz_values(self) -> Tensor:
        """Its eigenvalues, ascending."""
        values: Tensor = torch.linalg.eigvalsh(self.dense())
        return values

    def smallest(self) -> float:
        """The smallest eigenvalue; of many by bisection, in k numbers of memory.

        T - x I is positive definite if and only if all its pivots are positive (Givens 1954).
        """
        if len(self.diagonal) <= DENSE_UP_TO:
            return float(self.ritz_values()[0])
        diagonal: list[float] = self.diagonal.tolist()
        squares = [0.0, *self.off_diagonal.square().tolist()]
        off = [0.0, *self.off_diagonal.abs().tolist(), 0.0]
        discs = zip(diagonal, off, off[1:], strict=False)
        low, high = min(a - left - right for a, left, right in discs), min(diagonal)
        unit: float = torch.finfo(torch.float64).eps
        while high - low > 2 * unit * max(abs(low), abs(high)):
            middle = (low + high) / 2
            if _definite(diagonal, squares, middle):
                low = middle
            else:
                high = middle
        return high


def _definite(diagonal: Sequence[float], squares: Sequence[float], x: float) -> bool:
    """Whether T - x I is positive definite, from T's diagonal and the squares beside it."""
    pivot = 1.0
    for a, square in zip(diagonal, squares, strict=True):
        pivot = a - x - square / pivot
        if not pivot > 0:
            return False
    return True


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
    process = Process(A, max_iter, start, seed)
    while not process.finished:
        process.advance()
    return process.result()


class Process:
    """The Lanczos recursion, one step at a time; it holds one vector for each step allowed."""

    def __init__(self, A: LinearOperator, max_iter: int, start: Tensor | None, seed: int) -> None:
        check_square(A)
        rows = A.shape[0]
        if max_iter < 1:
            raise ValueError(f"max_iter must be positive, not {max_iter}")
        if start is None:
            generator = torch.Generator().manual_seed(seed)
            start = torch.randn(rows, generator=generator, dtype=torch.float64)
        start = start.to(A.device, A.dtype)
        self.A = A
        self.capacity: int = min(max_iter, rows)
        self.next: Tensor = start / torch.linalg.vector_norm(start)
        del start  # a vector of n entries, which need not stand beside the basis
        self.basis: Tensor = torch.empty(self.capacity, rows, dtype=A.dtype, device=A.device)
        self.diagonal: list[float] = []
        self.off_diagonal: list[float] = []
        self.norm: float = 0.0
        self.residual: float = 1.0

    @property
    def steps(self) -> int:
        """How many have been taken."""
        return len(self.diagonal)

    @property
    def finished(self) -> bool:
        """Whether there is nothing more to find, or no room for another vector."""
        return self.residual == 0 or self.steps == self.capacity

    def advance(self) -> None:
        """One step."""
        self.take(self.A @ self.next)

    def take(self, r: Tensor) -> None:
        """One step, given A times `next`, which is not changed."""
        v = self.next
        if self.steps:
            self.off_diagonal.append(self.residual)
        self.basis[self.steps] = v
        self.norm = max(self.norm, _norm(r))
        self.diagonal.append(float(v @ r))
        basis = self.basis[: self.steps]
        # One pass leaves what rounding has left of the basis in r, which matters where r is
        # short; a second one removes it ("twice is enough", Parlett 1998, section 6.9).
        for _ in range(2):
            within = basis.T @ (basis @ r)
            r = within.neg_().add_(r)  # r - within, in the memory of the latter
        del within
        self.residual = _norm(r)
        # A remainder of a few roundings of the largest product is nothing but rounding: the
        # basis spans an invariant subspace.
        spanned = self.residual <= 10 * torch.finfo(v.dtype).eps * self.norm
        if spanned or self.steps == len(v):
            self.residual = 0.0
        else:
            self.next = r.div_(self.residual)

    def give_up(self) -> None:
        """Free the vectors: what is known so far stays, and no further step can be taken."""
        self.basis, self.next = self.basis[:0].clone(), self.next[:0].clone()

    def result(self) -> Lanczos:
        """What is known so far."""
        return Lanczos(Tridiagonal.of(self.diagonal, self.off_diagonal), self.residual)


def _norm(v: Tensor) -> float:
    """The Euclidean length, also where the squares of the entries underflow."""
    largest = v.abs().max()
    if not largest > 0:
        return float(largest)
    return float(largest * torch.linalg.vector_norm(v / largest))
