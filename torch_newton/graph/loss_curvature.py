"""The square root of the output Hessian: of Q, the second derivative of a term in its outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linalg.precision import at_least_single
from .bounds import Centred
from .output_hessian import OutputHessian, measure, sample_shape, times
from .terms import Term


@dataclass(frozen=True)
class OutputHessianRoot:
    r"""The symmetric :math:`Q^{1/2}` of a term.

    Attributes:
        matrix: M x C where Q is diagonal, as for squares; M x C x C where the C outputs of a
            sample interact, as in a cross-entropy; of other shapes as in `OutputHessian`.
        inverse: its pseudoinverse, of the same shape.
        shape: that of z, where the blocks are not those of samples.
        dim: see `OutputHessian`.
    """

    matrix: Tensor
    inverse: Tensor
    shape: torch.Size | None = None
    dim: int | None = None

    @property
    def rows(self) -> int:
        """M, the number of samples."""
        return self.matrix.shape[0] if self.shape is None else self.shape[0]

    @property
    def separates_samples(self) -> bool:
        """Whether samples do not interact: its blocks are those of samples."""
        return self.shape is None

    @property
    def columns(self) -> int:
        """C, the number of outputs of a sample."""
        return self.matrix.shape[1] if self.shape is None else self.shape[1:].numel()

    def transposed(self) -> OutputHessianRoot:
        """Of a diagonal one that with samples and outputs exchanged."""
        return OutputHessianRoot(self.matrix.T, self.inverse.T)

    def row(self, column: int) -> Tensor:
        """Of each sample's block of Q^{1/2} one row, M x C; the blocks must be those of samples."""
        if self.matrix.ndim == 3:
            return self.matrix[:, column]
        if self.columns == 1:
            return self.matrix
        row = torch.zeros_like(self.matrix)
        row[:, column] = self.matrix[:, column]
        return row

    def apply(self, u: Tensor) -> Tensor:
        """Q^{1/2} u, for u shaped like z."""
        return times(self.matrix, u, self.dim)

    def solve(self, u: Tensor) -> Tensor:
        """Q^{-1/2} u, zero where Q is, for u shaped like z."""
        return times(self.inverse, u, self.dim)


def output_hessian_root(term: Term) -> OutputHessianRoot | None:
    """The square root of a term's Q; None where many samples interact or Q is not positive."""
    like = term.like
    rows, columns = sample_shape(like)
    if isinstance(term.hessian, Centred):
        found = measure(term.hessian.matvec, like, 0.0)
        return None if found is None else _root(found, like, 0.0)
    if term.hessian is not None:
        return _root(term.hessian, like, term.size)
    if term.curvature is None:
        return _measured_root(term)
    if term.curvature.numel() > 1:
        return _diagonal_root(term.curvature.reshape(rows, columns))
    q = math.sqrt(float(term.curvature))
    matrix = like.new_full((rows, columns), q)
    return OutputHessianRoot(matrix, like.new_full((rows, columns), 1 / q if q > 0 else 0.0))


def _measured_root(term: Term) -> OutputHessianRoot | None:
    """By products; where these round too much for blocks, by the term's formula."""
    product, like = term.hessian_product(), term.like
    if term.formula is None:
        measured = measure(product, like, term.size)
        return None if measured is None else _root(measured, like, term.size)
    # A formula keeps more digits: products need not pass for right by their rounding.
    measured = measure(product, like, 0.0, together=False)
    if measured is not None:
        return _root(measured, like, term.size)
    exact = term.formula()
    if exact is not None:
        return _root(exact, like, 0.0)
    measured = measure(product, like, 0.0)
    return None if measured is None else _root(measured, like, term.size)


def bounding_root(term: Term) -> OutputHessianRoot | None:
    """The square root of a diagonal matrix above a term's Q, where one is known."""
    if not isinstance(term.hessian, Centred):
        return None
    return _diagonal_root(term.hessian.bound(term.like).matrix)


def _root(Q: OutputHessian, like: Tensor, size: float) -> OutputHessianRoot | None:
    return _diagonal_root(Q.matrix, size) if Q.matrix.ndim == 2 else _block_root(Q, like, size)


def _diagonal_root(diagonal: Tensor, size: float = 0.0) -> OutputHessianRoot | None:
    """Entries that are negative by no more than the rounding of the numbers they are made of,
    `size`, count as zero.
    """
    if not bool((diagonal >= -4 * torch.finfo(diagonal.dtype).eps * size).all()):
        return None
    root = diagonal.clamp(min=0).sqrt()
    return OutputHessianRoot(root, torch.where(root > 0, 1 / root, torch.zeros_like(root)))


def _block_root(Q: OutputHessian, like: Tensor, size: float) -> OutputHessianRoot | None:
    """Of M x C x C matrices."""
    blocks = Q.matrix
    columns = blocks.shape[1]
    wide = blocks.to(at_least_single(blocks.dtype))
    values, vectors = torch.linalg.eigh((wide + wide.mT) / 2)
    # Confident samples have a small Q as the difference of large numbers: rounding is measured
    # against the weight of the term, not against what is left. One from a formula errs by as
    # much as its own block.
    sizes = values.amax(1, keepdim=True) if size == 0 else values.amax().clamp(min=size)
    # An eigendecomposition errs by about C epsilon of the size, forming the blocks by about as
    # much; four leaves a factor of two.
    floor = 4 * columns * torch.finfo(blocks.dtype).eps * sizes
    positive = values > floor
    if bool((values < -floor).any()):
        return None
    root = torch.where(positive, values, torch.zeros_like(values)).sqrt()
    inverse = torch.where(positive, 1 / root, torch.zeros_like(root))
    return OutputHessianRoot(
        (vectors * root[:, None] @ vectors.mT).to(blocks.dtype),
        (vectors * inverse[:, None] @ vectors.mT).to(blocks.dtype),
        like.shape if Q.dim is not None or len(blocks) != sample_shape(like)[0] else None,
        Q.dim,
    )
