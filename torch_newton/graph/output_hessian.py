"""The output Hessian of one term: its second derivative Q in z, as a matrix with a structure.

Where no formula of a loss is known, Q is measured by products with it: the product with ones is its
diagonal, if it is diagonal; C products are its blocks, if it is block-diagonal; and one product
with a random vector tells whether it is either. A small Q of another kind is taken as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_OUTPUTS = 64
"""Outputs of a sample up to which their second derivatives are taken: one product with Q each, and
an eigendecomposition of C x C for each sample, of some 10 C^3 = 3e6 operations."""

MAX_WHOLE = 128
"""Entries of z up to which Q is taken as a whole, where all of them interact: a product each, and
an eigendecomposition of some 10 R^3 = 2e7 operations. With a network so small that a step by
conjugate gradients takes 8 to 15 ms on one core, this one takes 20 to 46 for 64 entries and 40 to
90 for 256, and gets further: a correlation 0.37 by conjugate gradients and 0.03 so, in as many
evaluations."""

Product = Callable[[Tensor], Tensor]
"""u -> Q u, both shaped like z."""


@dataclass(frozen=True)
class OutputHessian:
    """Q of a term: a diagonal, or a C x C block for each of M groups of entries of z.

    Attributes:
        matrix: M x C for a diagonal, M being the length of z; otherwise M x C x C, and with
            M = 1 a single block may be that of all entries of z.
        dim: None where a block is that of a sample, an entry of z's first dimension; otherwise
            the dimension of z that a block extends along, as classes do for each pixel.
    """

    matrix: Tensor
    dim: int | None = None

    def matvec(self, u: Tensor) -> Tensor:
        """Q u, for u shaped like z."""
        return times(self.matrix, u, self.dim)


def times(matrix: Tensor, u: Tensor, dim: int | None) -> Tensor:
    """The product of a diagonal or of blocks with u, shaped like z."""
    if matrix.ndim == 2:
        return matrix.reshape(u.shape) * u
    moved = u if dim is None else u.movedim(dim, -1)
    product = block_product(matrix, moved.reshape(matrix.shape[0], matrix.shape[1], 1))
    product = product.reshape(moved.shape)
    return product if dim is None else product.movedim(-1, dim)


def block_product(blocks: Tensor, left: Tensor) -> Tensor:
    """M x C x C blocks times M x C x ... ."""
    return torch.einsum("mcd,md...->mc...", blocks, left)


def sample_shape(like: Tensor) -> tuple[int, int]:
    """M and C: the samples of z, and the outputs of each."""
    rows = like.shape[0] if like.ndim else 1
    return rows, like.numel() // max(rows, 1)


def measure(
    product: Product, like: Tensor, size: float, together: bool = True
) -> OutputHessian | None:
    """The Q that `product` multiplies by; None where it is large, and of no such form.

    A misfit of rounding is allowed: the tolerance of `check.explains` of what is expected, and of
    what is expected as the difference of large numbers, some epsilon of those.

    Args:
        product: u -> Q u.
        like: a tensor of z's shape.
        size: of the largest numbers that make up an entry of Q, such as the weight of a term. A
            confident cross-entropy has a Q far below it.
        together: whether Q may be one in which all entries of z interact.
    """
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
    expected = product(u)
    norm, epsilon = torch.linalg.vector_norm, torch.finfo(like.dtype).eps

    def explains(found: OutputHessian) -> bool:
        # A product with a block adds up C numbers, each rounded; four leaves room for the
        # operations behind them.
        rounding = 4 * found.matrix.shape[-1] * epsilon * size * float(norm(u))
        tolerance = max(epsilon**0.6 * float(norm(expected)), rounding)
        return bool(norm(found.matvec(u) - expected) <= tolerance)

    rows, columns = sample_shape(like)
    diagonal = OutputHessian(product(torch.ones_like(like)).reshape(rows, columns))
    if explains(diagonal):
        return diagonal
    blocks = next((found for found in _blocks(product, like) if explains(found)), None)
    if blocks is None and together and sample_shape(like)[1] < like.numel() <= MAX_WHOLE:
        return whole(product, like)
    return blocks


def _blocks(product: Product, like: Tensor) -> Iterator[OutputHessian]:
    """Q as it would be with a block for each sample; or along a dimension, short ones first."""
    columns = sample_shape(like)[1]
    if 1 < columns <= MAX_OUTPUTS:
        yield by_sample(product, like)
    for dim in sorted(range(1, like.ndim), key=lambda d: like.shape[d]):
        length = like.shape[dim]
        if like.ndim > 2 and 1 < length <= MAX_OUTPUTS:
            units = [_along(like, dim, i) for i in range(length)]
            pieces = [product(unit).movedim(dim, -1).reshape(-1, length) for unit in units]
            yield OutputHessian(torch.stack(pieces, dim=2), dim)


def by_sample(product: Product, like: Tensor) -> OutputHessian:
    """A block for each sample, by C products with ones at one output of all samples."""
    rows, columns = sample_shape(like)
    units = [unit.expand(rows, columns) for unit in torch.eye(columns).to(like)]
    pieces = [product(unit.reshape(like.shape)).reshape(rows, columns) for unit in units]
    return OutputHessian(torch.stack(pieces, dim=2))


def whole(product: Product, like: Tensor) -> OutputHessian:
    """One block for all entries of z, by a product with each of the unit vectors."""
    units = torch.eye(like.numel()).to(like)
    pieces = [product(unit.reshape(like.shape)).reshape(-1) for unit in units]
    return OutputHessian(torch.stack(pieces, dim=1)[None])


def _along(like: Tensor, dim: int, index: int) -> Tensor:
    """Ones at one index of a dimension."""
    unit = torch.zeros_like(like)
    unit.select(dim, index).fill_(1.0)
    return unit


def positive_part(Q: OutputHessian, size: float) -> tuple[OutputHessian, bool] | None:
    """Q without its negative eigenvalues, and whether it had any but for rounding.

    A curvature must be positive semidefinite; of a loss that is not convex in z, such as a
    Gaussian likelihood in mean and variance, the directions in which it curves upwards are kept.
    Where these have less than two thirds of the sum of all eigenvalues' sizes Q says little of
    the loss, and the answer is None. (A product of two outputs has a half; a Gaussian likelihood
    in mean and log-variance at least 85 percent, whatever the residual.)

    Args:
        Q: symmetric.
        size: see `measure`.
    """
    blocks = Q.matrix.ndim == 3
    values, vectors = Q.matrix, None
    if blocks:
        values, vectors = torch.linalg.eigh((Q.matrix + Q.matrix.mT) / 2)
    above, below = values.clamp(min=0), values.clamp(max=0)
    rise, fall = float(above.sum()), -float(below.sum())
    if not (math.isfinite(rise) and rise > 0 and rise >= 2 * fall):
        return None
    largest = max(size, float(above.max()))
    floor = 4 * Q.matrix.shape[-1] * torch.finfo(values.dtype).eps * largest
    if blocks and not bool((values < -floor).any()):
        return Q, False
    matrix = above if vectors is None else vectors * above[:, None] @ vectors.mT
    return OutputHessian(matrix, Q.dim), bool((values < -floor).any())
