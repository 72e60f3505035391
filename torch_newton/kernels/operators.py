"""Tangent kernels as operators, which need products only and so serve for any number of rows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..autodiff.products import Outputs, hessian, jacobian
from ..linalg.operators import LinearOperator, damped
from ..linalg.solve import inverse


def tangent_kernel(outputs: Outputs, params: Sequence[Tensor]) -> LinearOperator:
    r"""The empirical neural tangent kernel :math:`K = J J^T`, R x R, with no factor 1/M.

    (Jacot, Gabriel, Hongler 2018.) The normalisation B = K/M of Riedl, Spiliopoulos and
    Sirignano (2026) is ``(1 / M) * tangent_kernel(...)``.
    """
    J = jacobian(outputs, params)
    return J @ J.T


def newton_tangent_kernel(
    loss: Tensor,
    outputs: Outputs,
    params: Sequence[Tensor],
    damping: float,
    *,
    tol: float = 1e-10,
) -> LinearOperator:
    r"""The Newton neural tangent kernel :math:`J (H + \lambda I)^{-1} J^T`, R x R.

    A regularized Newton step moves the outputs by :math:`-\mathrm{NNTK}\,\nabla_z\ell` to first
    order. With :math:`\ell = \|z - y\|^2/(2M)` its eigenvalues are M times those of Riedl,
    Spiliopoulos and Sirignano (2026), who normalise by 1/M and whose limit is
    :math:`B(\gamma I + B)^{-1}`.

    Args:
        loss: a scalar with its graph.
        outputs: z, with its graph, R entries.
        params: the P parameters.
        damping: lambda, absolute.
        tol: relative residual of the linear solve behind each product.

    Raises:
        SolveError: at a product, where H + lambda I is singular to `tol`.
    """
    J = jacobian(outputs, params)
    return J @ inverse(damped(hessian(loss, params), damping), tol=tol) @ J.T
