r"""The tangent kernels of a loss as products, for the time when its Jacobian cannot be had.

A product with :math:`J J^T` is a backward pass and the derivative of one, however many rows there
are. With the output Hessian :math:`Q`, the eigenvalues of :math:`Q^{1/2} J J^T Q^{1/2}` other than
zero are those of the Gauss-Newton matrix :math:`J^T Q J`, for which no square root is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_newton import LinearOperator, jacobian
from torch_newton.autodiff.products import jacobian_at
from torch_newton.graph.residuals import Residuals, read_residuals
from torch_newton.graph.terms import Term
from torch_newton.linalg.operators import congruent, in_dtype
from torch_newton.linalg.precision import at_least_single


@dataclass(frozen=True)
class KernelProducts:
    """J of the outputs of a loss and their second derivative, as products.

    Attributes:
        J: R x P.
        Q: R x R; None where it is known to be a multiple of I.
        scale: c where Q = c^2 I, None elsewhere.
        columns: C, the most outputs of a sample.
    """

    J: LinearOperator
    Q: LinearOperator | None
    scale: float | None
    columns: int

    def kernel(self) -> tuple[LinearOperator, Tensor]:
        """J J^T, R x R, and a vector to start the Lanczos process from."""
        return _in_single(self.J @ self.J.T, self._gaussian())

    def gauss_newton(self, scaling: Tensor | None) -> tuple[LinearOperator, Tensor]:
        r"""J^T Q J, P x P, and a vector in its range.

        The Lanczos process stays in the range, and sees no eigenvalue that only this form has.

        Args:
            scaling: D^{-1/2}, P entries, for the matrix in the scaled variables.
        """
        Q = self.Q
        if Q is None:
            assert self.scale is not None
            G, weighed = self.scale**2 * (self.J.T @ self.J), self._gaussian()
        else:
            G, weighed = self.J.T @ Q @ self.J, Q @ self._gaussian()
        G, start = _in_single(G, self.J.rmatvec(weighed))
        return (G, start) if scaling is None else (congruent(G, scaling), scaling * start)

    def _gaussian(self) -> Tensor:
        """R random numbers from a generator of their own."""
        random = torch.Generator().manual_seed(0)
        v = torch.randn(self.J.shape[0], generator=random, dtype=torch.float64)
        return v.to(self.J.device, self.J.dtype)


def _in_single(A: LinearOperator, start: Tensor) -> tuple[LinearOperator, Tensor]:
    """Both for vectors in single precision, if they are in a narrower one."""
    dtype = at_least_single(A.dtype)
    return in_dtype(A, dtype), start.to(dtype)


def products_of_loss(loss: Tensor, params: Sequence[Tensor]) -> KernelProducts | None:
    """Those of the outputs in the graph of a loss; None where there are none."""
    terms = read_residuals(loss).of_outputs
    if not terms:
        return None
    J = jacobian_at([term.z for term in terms], [term.like for term in terms], params)
    columns = max(_columns(term.like) for term in terms)
    scale = _scale(terms)
    Q = Residuals(list(terms), []).hessian() if scale is None else None
    return KernelProducts(J, Q, scale, columns)


def products_of_outputs(outputs: Sequence[Tensor], params: Sequence[Tensor]) -> KernelProducts:
    """Those of outputs given apart from the loss, one tensor a batch, with Q = I/M."""
    samples = sum(len(tensor) if tensor.ndim else 1 for tensor in outputs)
    columns = max(_columns(tensor) for tensor in outputs)
    return KernelProducts(jacobian(list(outputs), params), None, samples**-0.5, columns)


def _scale(terms: Sequence[Term]) -> float | None:
    """C where the output Hessian of all terms is c^2 I with a c above zero."""
    curvatures = [term.curvature for term in terms]
    values = {float(c) for c in curvatures if c is not None and c.numel() == 1}
    if len(values) != 1 or any(c is None or c.numel() != 1 for c in curvatures):
        return None
    (value,) = values
    return value**0.5 if value > 0 else None


def _columns(like: Tensor) -> int:
    return like.numel() // max(1, like.shape[0] if like.ndim else 1)
