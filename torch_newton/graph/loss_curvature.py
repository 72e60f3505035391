"""The square root of the output Hessian: of Q, the second derivative of a term in its outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .terms import Term

MAX_OUTPUTS = 64
"""Outputs of a sample up to which their second derivatives are taken: one product with Q each, and
an eigendecomposition of C x C for each sample, of some 10 C^3 = 3e6 operations."""


@dataclass(frozen=True)
class OutputHessianRoot:
    r"""The symmetric :math:`Q^{1/2}` of a term whose samples do not interact.

    Attributes:
        matrix: M x C where Q is diagonal, as for squares; M x C x C where the C outputs of a
            sample interact, as in a cross-entropy.
        inverse: its pseudoinverse, of the same shape.
    """

    matrix: Tensor
    inverse: Tensor

    @property
    def rows(self) -> int:
        """M, the number of samples."""
        return self.matrix.shape[0]

    @property
    def columns(self) -> int:
        """C, the number of outputs of a sample."""
        return self.matrix.shape[1]

    def transposed(self) -> OutputHessianRoot:
        """Of a diagonal one that with samples and outputs exchanged."""
        return OutputHessianRoot(self.matrix.T, self.inverse.T)

    def row(self, column: int) -> Tensor:
        """Of each sample's block of Q^{1/2} one row, M x C."""
        if self.matrix.ndim == 3:
            return self.matrix[:, column]
        if self.columns == 1:
            return self.matrix
        row = torch.zeros_like(self.matrix)
        row[:, column] = self.matrix[:, column]
        return row

    def apply(self, u: Tensor) -> Tensor:
        """Q^{1/2} u, for u shaped like z."""
        return self._times(self.matrix, u)

    def solve(self, u: Tensor) -> Tensor:
        """Q^{-1/2} u, zero where Q is, for u shaped like z."""
        return self._times(self.inverse, u)

    def _times(self, matrix: Tensor, u: Tensor) -> Tensor:
        if matrix.ndim == 2:
            return matrix.reshape(u.shape) * u
        return _apply(matrix, u.reshape(self.rows, self.columns, 1)).reshape(u.shape)


def output_hessian_root(term: Term) -> OutputHessianRoot | None:
    """The square root of a term's Q; None where samples interact or Q is not positive."""
    like = term.like
    rows = like.shape[0] if like.ndim else 1
    columns = like.numel() // rows
    if term.curvature is None:
        return _root_by_products(term, rows, columns)
    if term.curvature.numel() > 1:
        return _diagonal_root(term.curvature.reshape(rows, columns))
    q = math.sqrt(float(term.curvature))
    matrix = like.new_full((rows, columns), q)
    return OutputHessianRoot(matrix, like.new_full((rows, columns), 1 / q if q > 0 else 0.0))


def _root_by_products(term: Term, rows: int, columns: int) -> OutputHessianRoot | None:
    """The square root of a Q that is diagonal, or else block-diagonal, found by products.

    Whether it is either is seen from one product with a random vector, to the tolerance of
    `check.explains`.
    """
    like, product = term.like, term.hessian_product()
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
    expected = product(u)
    tolerance = torch.finfo(like.dtype).eps ** 0.6 * float(torch.linalg.vector_norm(expected))

    def explains(found: Tensor) -> bool:
        misfit = torch.linalg.vector_norm(found.reshape(like.shape) - expected)
        return bool(misfit <= tolerance)

    diagonal = product(torch.ones_like(like)).reshape(rows, columns)
    if explains(diagonal * u.reshape(rows, columns)):
        return _diagonal_root(diagonal)
    if columns == 1 or columns > MAX_OUTPUTS:
        return None
    units = torch.eye(columns).to(like)
    blocks = torch.stack(
        [
            product(unit.expand(rows, columns).reshape(like.shape)).reshape(rows, columns)
            for unit in units
        ],
        dim=2,
    )
    if not explains(_apply(blocks, u.reshape(rows, columns, 1))):
        return None
    return _block_root(blocks, term.weight)


def _diagonal_root(diagonal: Tensor) -> OutputHessianRoot | None:
    if not bool((diagonal >= 0).all()):
        return None
    root = diagonal.sqrt()
    return OutputHessianRoot(root, torch.where(root > 0, 1 / root, torch.zeros_like(root)))


def _block_root(blocks: Tensor, weight: Tensor) -> OutputHessianRoot | None:
    """Of M x C x C matrices."""
    columns = blocks.shape[1]
    values, vectors = torch.linalg.eigh((blocks + blocks.mT) / 2)
    # Confident samples have a small Q as the difference of large numbers: rounding is measured
    # against the weight of the term, not against what is left.
    size = torch.maximum(values.amax(), weight.abs().amax())
    # An eigendecomposition errs by about C epsilon of the size, forming the blocks by about as
    # much; four leaves a factor of two.
    floor = 4 * columns * torch.finfo(blocks.dtype).eps * size
    positive = values > floor
    if bool((values < -floor).any()):
        return None
    root = torch.where(positive, values, torch.zeros_like(values)).sqrt()
    inverse = torch.where(positive, 1 / root, torch.zeros_like(root))
    return OutputHessianRoot(
        vectors * root[:, None] @ vectors.mT, vectors * inverse[:, None] @ vectors.mT
    )


def _apply(blocks: Tensor, left: Tensor) -> Tensor:
    return torch.einsum("mcd,md...->mc...", blocks, left)
