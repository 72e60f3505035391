r"""Squares that lie above a function and touch it at the present point.

A norm has no curvature along the vector, where its slope is: a step made from its own second
derivative has no length there. Of the root of a sum of squares the chain rule without the second
derivative of the root leaves :math:`|z + d| \le |z| + \tfrac{z^T d}{|z|} + \tfrac{|d|^2}{2|z|}`,
which is the curvature of iteratively reweighted least squares (Lawson 1961; Weiszfeld 1937).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node

from ..autodiff.nodes import saved
from .output_hessian import OutputHessian, sample_shape


def norm_bound(node: Node, weight: Tensor) -> OutputHessian:
    r""":math:`w / |z|` for Euclidean norms over some dimensions, and for the size of each entry.

    The bound is infinite where the norm is zero. A norm counts as at least the root of epsilon of
    the largest, which leaves half of the digits to the largest in a sum with the smallest.
    """
    z = saved(node, "self")
    if node.name() == "DistBackward0":
        z = z - saved(node, "other")
        norms = torch.linalg.vector_norm(z).reshape([1] * z.ndim)
    elif node.name() == "AbsBackward0":
        norms = z.abs()
    else:
        dims = _dims(node, z)
        norms = torch.linalg.vector_norm(z, dim=dims, keepdim=True)
        weight = weight.reshape(norms.shape)
    norms = norms.clamp(min=float(norms.amax()) * math.sqrt(torch.finfo(z.dtype).eps))
    q = torch.where(norms > 0, weight / norms, torch.zeros_like(norms))
    return _diagonal(q, z)


@dataclass(frozen=True)
class Centred:
    r"""The second derivative of a variance of n numbers: :math:`q\,(I - 1 1^T / n)`.

    Attributes:
        factor: q, broadcast to z's shape.
        dims: the dimensions of z over which the n numbers extend.
    """

    factor: Tensor
    dims: tuple[int, ...]

    def matvec(self, u: Tensor) -> Tensor:
        """Q u, for u shaped like z."""
        return self.factor * (u - u.mean(self.dims, keepdim=True)) if self.dims else 0 * u

    def bound(self, like: Tensor) -> OutputHessian:
        """q I, which is larger by what is common to the n numbers, and so has no slope."""
        return _diagonal(self.factor, like)


def variance_hessian(node: Node, weight: Tensor) -> Centred:
    r""":math:`q = 2 w / (n - c)` for a variance of n numbers, c being Bessel's correction.

    Of a standard deviation :math:`\sigma`, the root of a variance, it is
    :math:`w / ((n - c)\,\sigma)`, without the second derivative of the root.
    """
    z, correction = saved(node, "self"), saved(node, "correction")
    dims = _dims(node, z)
    n = math.prod(z.shape[d] for d in dims) - (1.0 if correction is None else float(correction))
    shape = [1 if d in dims else length for d, length in enumerate(z.shape)]
    q = 2 * weight.reshape(shape) / n
    if node.name() == "StdBackward0":
        deviation = saved(node, "result").reshape(shape)
        q = torch.where(deviation > 0, q / (2 * deviation), torch.zeros_like(q))
    return Centred(q, dims)


def _dims(node: Node, z: Tensor) -> tuple[int, ...]:
    """The dimensions over which a node has reduced; negative ones are saved wrapped around."""
    dims = saved(node, "dim")
    if not dims:
        return tuple(range(z.ndim))
    return tuple((d - 2**64 if d >= 2**63 else d) % z.ndim for d in dims)


def _diagonal(q: Tensor, z: Tensor) -> OutputHessian:
    return OutputHessian(q.expand(z.shape).reshape(sample_shape(z)))
