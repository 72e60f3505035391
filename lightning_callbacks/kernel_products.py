r"""The tangent kernels of a loss as products, for the time when its Jacobian cannot be had.

A product with :math:`S J J^T S`, where :math:`S = Q^{1/2}`, is a backward pass and the derivative
of one, however many rows there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_newton import LinearOperator, jacobian
from torch_newton.autodiff.products import jacobian_at
from torch_newton.graph.loss_curvature import OutputHessianRoot, output_hessian_root
from torch_newton.graph.residuals import read_residuals
from torch_newton.linalg.operators import symmetric


@dataclass(frozen=True)
class KernelProducts:
    r"""J of the outputs of a loss, R x P, and :math:`Q^{1/2}`, as products.

    Attributes:
        J: R x P.
        roots: of each term's Q; None where samples interact in the loss.
        scale: c where Q = c^2 I throughout, None elsewhere.
        columns: C, the most outputs of a sample.
    """

    J: LinearOperator
    roots: Sequence[OutputHessianRoot] | None
    scale: float | None
    columns: int

    def plain(self) -> LinearOperator:
        """J J^T, R x R."""
        return self.J @ self.J.T

    def weighted(self, scaling: Tensor | None = None) -> LinearOperator:
        r""":math:`Q^{1/2} J D^{-1} J^T Q^{1/2}`, R x R.

        Args:
            scaling: D^{-1/2}, P entries; I where none is given.
        """

        def product(u: Tensor) -> Tensor:
            v = self.J.rmatvec(self.weigh(u))
            if scaling is not None:
                v = scaling.square() * v
            return self.weigh(self.J.matvec(v))

        R = self.J.shape[0]
        return symmetric(R, product, dtype=self.J.dtype, device=self.J.device)

    def weigh(self, u: Tensor) -> Tensor:
        """Q^{1/2} u, R entries."""
        if self.scale is not None:
            return self.scale * u
        assert self.roots is not None  # who asks for it has looked
        pieces = torch.split(u, [root.rows * root.columns for root in self.roots])
        pairs = zip(self.roots, pieces, strict=True)
        return torch.cat([r.apply(p.view(r.rows, r.columns)).reshape(-1) for r, p in pairs])

    def start(self) -> Tensor:
        """A Gaussian vector of R entries, from a generator of its own."""
        random = torch.Generator().manual_seed(0)
        v = torch.randn(self.J.shape[0], generator=random, dtype=torch.float64)
        return v.to(self.J.device, self.J.dtype)


def products_of_loss(loss: Tensor, params: Sequence[Tensor]) -> KernelProducts | None:
    """Those of the outputs in the graph of a loss; None where there are none."""
    terms = read_residuals(loss).of_outputs
    if not terms:
        return None
    J = jacobian_at([term.z for term in terms], [term.like for term in terms], params)
    found = [output_hessian_root(term) for term in terms]
    roots = [root for root in found if root is not None]
    columns = max(_columns(term.like) for term in terms)
    if len(roots) < len(found):
        return KernelProducts(J, None, None, columns)
    constant = None
    if all(root.matrix.ndim == 2 for root in roots):
        entries = torch.cat([root.matrix.reshape(-1) for root in roots])
        if bool((entries == entries[0]).all()):
            constant = float(entries[0]) or None
    return KernelProducts(J, roots, constant, columns)


def products_of_outputs(outputs: Sequence[Tensor], params: Sequence[Tensor]) -> KernelProducts:
    """Those of outputs given apart from the loss, one tensor a batch, with Q = I/M."""
    samples = sum(len(tensor) if tensor.ndim else 1 for tensor in outputs)
    columns = max(_columns(tensor) for tensor in outputs)
    return KernelProducts(jacobian(list(outputs), params), None, samples**-0.5, columns)


def _columns(like: Tensor) -> int:
    return like.numel() // max(1, like.shape[0] if like.ndim else 1)
