r"""Hessian-vector products by differences of gradients.

.. math:: H v \approx \frac{g(\theta + h v) - g(\theta - h v)}{2 h}

They need only ordinary gradients, and so serve where the graph cannot be differentiated twice: a
compiled model, a fused kernel, a function that is marked as differentiable once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..linalg.flat import all_finite
from ..linalg.operators import LinearOperator, symmetric
from .products import NotTwiceDifferentiableError


def finite_difference_hessian(
    gradient_at: Callable[[Tensor], Tensor], params: Sequence[Tensor]
) -> LinearOperator:
    r"""The Hessian at the current parameters, P x P, by two gradients a product.

    The parameters are moved by the length
    :math:`h |v| = \epsilon^{1/3} \max(1, |\theta| / \sqrt P)`, at which the truncation, of the
    order :math:`h^2`, and the rounding, of the order :math:`\epsilon / h`, are of the same order
    (Nocedal and Wright 2006, *Numerical Optimization*, section 8.1). What remains is of the order
    :math:`\epsilon^{2/3}`: 4e-11 in double precision and 2e-5 in single, relative to the size of
    the gradient's derivatives; the operator is symmetric to that accuracy only.

    Args:
        gradient_at: maps a vector of P entries to the gradient at the current parameters plus it.
        params: the P parameters.
    """
    size = sum(param.numel() for param in params)
    dtype, device = params[0].dtype, params[0].device
    length = difference_length(params)

    def product(v: Tensor) -> Tensor:
        norm = float(torch.linalg.vector_norm(v))
        if norm == 0:
            return torch.zeros_like(v)
        h = length / norm
        return (gradient_at(h * v) - gradient_at(-h * v)).div_(2 * h)

    return symmetric(size, product, dtype=dtype, device=device)


def difference_length(params: Sequence[Tensor]) -> float:
    r"""How far a central difference moves the parameters either way:
    :math:`\epsilon^{1/3} \max(1, |\theta| / \sqrt P)`.
    """
    size = sum(param.numel() for param in params)
    squares = sum(float(torch.linalg.vector_norm(param.detach())) ** 2 for param in params)
    length: float = torch.finfo(params[0].dtype).eps ** (1 / 3) * max(1.0, (squares / size) ** 0.5)
    return length


class NonFiniteProductError(NotTwiceDifferentiableError):
    """A product is not finite although the vector is: there is no second derivative here."""


def finite(A: LinearOperator) -> LinearOperator:
    """The same operator, which raises where a product is not finite.

    Raises:
        NonFiniteProductError: at a product, where a vector, or a column of a matrix, is finite
            and A times it is not.
    """

    def product(v: Tensor) -> Tensor:
        result = A @ v
        if all_finite(result):
            return result
        if bool((torch.isfinite(v).all(0) & ~torch.isfinite(result).all(0)).any()):
            raise NonFiniteProductError(
                "a product with the Hessian is not finite although the gradient is: the loss has "
                "no second derivative here. The usual cause is a norm at zero; write "
                "x.square().sum() in place of x.norm() ** 2, and (x.square().sum() + eps).sqrt() "
                "in place of x.norm()."
            )
        return result

    return symmetric(A.shape[0], product, dtype=A.dtype, device=A.device, matmat=product)


def gradient_alone(loss: Tensor, params: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """The gradient of L; None for unused parameters.

    The graph is kept, unless it is that of a compiled model, which can be used only once.
    """

    def gradient(keep: bool) -> Sequence[Tensor | None]:
        return torch.autograd.grad(loss, list(params), retain_graph=keep, allow_unused=True)

    try:
        return gradient(True)
    except RuntimeError as error:
        if "donated buffer" not in str(error):
            raise
    return gradient(False)
