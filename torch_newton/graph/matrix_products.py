"""Readers of products with a weight matrix or a vector of weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from ..autodiff.nodes import saved
from .broadcasts import broadcast
from .use import MAX_ENTRIES, Pairs, Reader, Use, matrix
from .views import View


def _entries(cotangent: Tensor) -> Tensor:
    """Rows of one entry."""
    return cotangent[:, None]


def _columns(cotangent: Tensor) -> Tensor:
    """Samples are columns."""
    return matrix(cotangent.mT)


def _matmul(node: Node, argument: int, view: View, first: str, second: str) -> Use | None:
    """A @ B, also of batches, with W or its transpose as one of the two."""
    other = saved(node, first if argument == 1 else second)
    if other is None or view.shape is None:
        return None
    if math.prod(view.shape[:-2]) != 1:
        return _several(node, argument, view, other)
    output = GradientEdge(node, 0)
    if argument == 1:
        return Use(view.param, output, matrix, matrix(other), view.transposed)
    return Use(view.param, output, _columns, _columns(other), not view.transposed)


def _several(node: Node, argument: int, view: View, other: Tensor) -> Use | None:
    """Products with several matrices W_j: X_j @ W_j and W_j @ X_j, samples along the rows of X_j.

    A row of J is formed: for each j the outer product of a row of X_j and one of the cotangent.
    """
    # Of a complex product x w the backward pass multiplies by the conjugate of x.
    X = (other if argument == 1 else other.mT).conj()
    shape = view.shape or ()
    if view.transposed or shape != (len(X), *shape[-2:]):
        return None
    if X.shape[1] * math.prod(shape) > MAX_ENTRIES:
        return None

    def rows(cotangent: Tensor) -> Tensor:
        if argument == 1:
            formed = torch.einsum("jnk,jnl->njkl", X, cotangent)
        else:
            formed = torch.einsum("jnk,jln->njlk", X, cotangent)
        return formed.flatten(1)

    def vectors(cotangent: Tensor, chosen: Tensor | None) -> tuple[Tensor, Tensor]:
        left, right = (X, cotangent) if argument == 1 else (cotangent.mT, X)
        return (left, right) if chosen is None else (left[:, chosen], right[:, chosen])

    pairs = Pairs((shape[0], shape[1], shape[2]), vectors, lambda _: X.shape[1])
    return Use(view.param, GradientEdge(node, 0), rows, None, argument != 1, pairs=pairs)


def _bilinear(node: Node, argument: int, view: View) -> Use | None:
    """z_o = x^T W_o y."""
    x, y = saved(node, "i1"), saved(node, "i3")
    if argument != 1 or x is None or y is None or view.transposed:
        return None
    products = (x[:, :, None] * y[:, None, :]).flatten(1)
    return Use(view.param, GradientEdge(node, 0), matrix, products)


def _mm(node: Node, argument: int, view: View) -> Use | None:
    return _matmul(node, argument, view, "self", "mat2")


def _addmm(node: Node, argument: int, view: View) -> Use | None:
    """c + A @ B, with b as c or W as one of A and B."""
    if saved(node, "alpha", 1) != 1 or saved(node, "beta", 1) != 1:
        return None
    if argument == 0:
        return broadcast(node, view)
    if node.name() == "BaddbmmBackward0":
        return _matmul(node, argument - 1, view, "batch1", "batch2")
    return _matmul(node, argument - 1, view, "mat1", "mat2")


def _mv(node: Node, argument: int, view: View) -> Use | None:
    """A @ w for a vector w."""
    operand = saved(node, "self")
    if argument != 1 or operand is None:
        return None
    return Use(view.param, GradientEdge(node, 0), _entries, operand)


MATRIX_PRODUCTS: dict[str, Reader] = {
    "AddmmBackward0": _addmm,
    "BaddbmmBackward0": _addmm,
    "BmmBackward0": _mm,
    "MmBackward0": _mm,
    "MvBackward0": _mv,
    "TrilinearBackward0": _bilinear,
}
"""What a matrix product is called, of two matrices, of batches of them and of a vector."""
