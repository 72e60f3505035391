"""Matrices that are known by what they do to a vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from .flat import add_multiple_

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LinearOperator:
    """A real m x n matrix A, given by v -> A v and u -> A^T u; closed under ``+ - * @ .T``.

    Curvature matrices of networks have too many entries to be formed, and a product with one
    costs about as much as two gradients. An expression of operators is evaluated only when it
    is multiplied by a vector, or by a matrix of columns:

    >>> A = from_dense(torch.tensor([[2.0, 1.0], [0.0, 3.0]]))
    >>> (A.T @ A + 0.5 * identity(2)) @ torch.tensor([1.0, 0.0])
    tensor([4.5000, 2.0000])

    Args:
        shape: (m, n).
        matvec: maps a vector of n entries to one of m, which is new or the argument itself.
        rmatvec: maps a vector of m entries to one of n.
        dtype: of the vectors it takes and returns.
        device: where these vectors are.
        matmat: maps an n x k matrix to one of m x k, where that is faster than k products. Sums,
            products and multiples of operators have it always, and use what their parts have.
        rmatmat: the same for the transpose.
    """

    shape: tuple[int, int]
    matvec: Product
    rmatvec: Product
    dtype: torch.dtype
    device: torch.device
    matmat: Product | None = None
    rmatmat: Product | None = None

    @property
    def T(self) -> LinearOperator:  # noqa: N802 - the name that NumPy and PyTorch use
        """The transpose."""
        rows, columns = self.shape
        return LinearOperator(
            (columns, rows),
            self.rmatvec,
            self.matvec,
            self.dtype,
            self.device,
            self.rmatmat,
            self.matmat,
        )

    @overload
    def __matmul__(self, other: Tensor) -> Tensor: ...
    @overload
    def __matmul__(self, other: LinearOperator) -> LinearOperator: ...
    def __matmul__(self, other: Tensor | LinearOperator) -> Tensor | LinearOperator:
        """A @ v for a vector, A @ V for a matrix of columns, A @ B for an operator.

        Raises:
            ValueError: the inner dimensions differ.
        """
        if self.shape[1] != other.shape[0]:
            raise ValueError(
                f"cannot multiply an operator of shape {self.shape} with an operand of shape "
                f"{tuple(other.shape)}: {self.shape[1]} columns meet {other.shape[0]} rows"
            )
        if isinstance(other, Tensor):
            if other.ndim == 1:
                return self.matvec(other)
            if self.matmat is not None:
                return self.matmat(other)
            return torch.stack([self.matvec(column) for column in other.unbind(1)], dim=1)

        # Each vector is free for the next as soon as it was multiplied: nothing here refers to it.
        def product(v: Tensor) -> Tensor:
            v = other.matvec(v)
            return self.matvec(v)

        def transposed(u: Tensor) -> Tensor:
            u = self.rmatvec(u)
            return other.rmatvec(u)

        return LinearOperator(
            (self.shape[0], other.shape[1]),
            product,
            transposed,
            self.dtype,
            self.device,
            lambda V: self @ (other @ V),
            lambda U: other.T @ (self.T @ U),
        )

    def __add__(self, other: LinearOperator) -> LinearOperator:
        """A + B.

        Raises:
            ValueError: the shapes differ.
        """
        if self.shape != other.shape:
            raise ValueError(
                f"cannot add operators of shapes {self.shape} and {other.shape}; to add a "
                f"multiple of the identity write A + c * identity({self.shape[0]})"
            )
        return LinearOperator(
            self.shape,
            lambda v: self.matvec(v) + other.matvec(v),
            lambda u: self.rmatvec(u) + other.rmatvec(u),
            self.dtype,
            self.device,
            lambda V: self @ V + other @ V,
            lambda U: self.T @ U + other.T @ U,
        )

    def __mul__(self, factor: float) -> LinearOperator:
        """A times a number."""
        return LinearOperator(
            self.shape,
            lambda v: factor * self.matvec(v),
            lambda u: factor * self.rmatvec(u),
            self.dtype,
            self.device,
            lambda V: factor * (self @ V),
            lambda U: factor * (self.T @ U),
        )

    __rmul__ = __mul__

    def __neg__(self) -> LinearOperator:
        return -1.0 * self

    def __sub__(self, other: LinearOperator) -> LinearOperator:
        return self + (-other)

    def dense(self) -> Tensor:
        """The matrix itself, m x n, by n products: for checks and for small problems."""
        return self @ torch.eye(self.shape[1], dtype=self.dtype, device=self.device)


def check_square(A: LinearOperator) -> None:
    """Check that A has as many rows as columns.

    Raises:
        ValueError: it has not.
    """
    rows, columns = A.shape
    if rows != columns:
        raise ValueError(f"the operator must be square, not {rows} x {columns}")


def symmetric(
    size: int,
    matvec: Product,
    *,
    dtype: torch.dtype,
    device: torch.device,
    matmat: Product | None = None,
) -> LinearOperator:
    """The operator of a symmetric matrix, for which A v and A^T v are the same.

    Args:
        size: n.
        matvec: maps a vector of n entries to one of n.
        dtype: of the vectors.
        device: where they are.
        matmat: maps an n x k matrix to one of n x k, where that is faster than k products.
    """
    return LinearOperator((size, size), matvec, matvec, dtype, device, matmat, matmat)


def identity(
    size: int, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> LinearOperator:
    """The identity, n x n with n = `size`; `dtype` is PyTorch's default where none is given."""
    return symmetric(
        size,
        lambda v: v,
        dtype=dtype or torch.get_default_dtype(),
        device=torch.device(device),
        matmat=lambda V: V,
    )


def damped(operator: LinearOperator, damping: float) -> LinearOperator:
    """A + damping I, for a square A: the matrix that a regularized Newton step inverts."""
    transpose = operator.T
    return LinearOperator(
        operator.shape,
        lambda v: add_multiple_(own_product(operator, v), damping, v),
        lambda u: add_multiple_(own_product(transpose, u), damping, u),
        operator.dtype,
        operator.device,
        lambda V: add_multiple_(own_product(operator, V), damping, V),
        lambda U: add_multiple_(own_product(transpose, U), damping, U),
    )


def own_product(operator: LinearOperator, v: Tensor) -> Tensor:
    """A v, which may be overwritten: a copy where an operator such as `identity` returns v."""
    result = operator @ v
    shared = result.untyped_storage().data_ptr() == v.untyped_storage().data_ptr()
    return result.clone() if shared else result


def congruent(operator: LinearOperator, e: Tensor) -> LinearOperator:
    """E A E with E = diag(e), for a symmetric A: the same form in scaled variables."""
    column, matvec = e[:, None], operator.matvec
    return symmetric(
        len(e),
        lambda v: matvec(e * v).mul_(e),  # of a new vector, also where it is given back
        dtype=operator.dtype,
        device=operator.device,
        matmat=lambda V: column * (operator @ (column * V)),
    )


def in_dtype(operator: LinearOperator, dtype: torch.dtype) -> LinearOperator:
    """A symmetric operator for vectors of another precision, evaluated in its own."""
    if dtype is operator.dtype:
        return operator

    def product(v: Tensor) -> Tensor:
        return (operator @ v.to(operator.dtype)).to(dtype)

    return symmetric(
        operator.shape[0],
        product,
        dtype=dtype,
        device=operator.device,
        matmat=None if operator.matmat is None else product,
    )


def from_dense(matrix: Tensor) -> LinearOperator:
    """A matrix in memory as an operator, for instance a preconditioner worked out by hand."""
    rows, columns = matrix.shape
    return LinearOperator(
        (rows, columns),
        lambda v: matrix @ v,
        lambda u: matrix.T @ u,
        matrix.dtype,
        matrix.device,
        lambda V: matrix @ V,
        lambda U: matrix.T @ U,
    )
