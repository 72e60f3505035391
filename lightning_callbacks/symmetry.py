"""Whether the Hessian is symmetric, in the time that there is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_newton import LinearOperator
from torch_newton.autodiff.verification import Asymmetry, asymmetry, differing

from .allowance import Allowance
from .bounded import first_vector
from .second_order import remembering
from .work import Unit, Vote, Work, run


@dataclass(frozen=True)
class Tested:
    """What testing H for symmetry has found.

    Attributes:
        asymmetry: how far H is from symmetric.
        along_gradient: H g, P entries; None where g is zero.
    """

    asymmetry: Asymmetry
    along_gradient: Tensor | None


def asymmetry_within(H: LinearOperator, g: Tensor, allowance: Allowance) -> Asymmetry:
    """How far H is from symmetric, in one pause: see `asymmetry_work`."""
    if allowance.unlimited:
        return asymmetry(H)
    return run(asymmetry_work(H, g, allowance), allowance).asymmetry


def asymmetry_work(
    H: LinearOperator, g: Tensor, allowance: Allowance, start: Tensor | None = None
) -> Work[Tested]:
    r"""How far H is from symmetric, by :math:`|u^T H v - v^T H u|`.

    Both products serve other ends, so that the test takes none of its own: u is the start of the
    Lanczos process, whose product H knows already, at the length :math:`\sqrt P` of P standard
    normal numbers; v is the gradient at that length, whose product sharpness, precision and lambda
    ask for. As u is random, a part of H that is antisymmetric shows unless it takes g to zero.
    Where the two sides differ by more than half of the digits, two further products decide, with
    a random vector in place of g: rounding errors in H u may lie along g, and hardly along that.

    Args:
        H: P x P, which knows its product with `first_vector`.
        g: the gradient, P entries.
        allowance: the time that there is.
        start: `first_vector` of H, where it has been drawn already.

    Raises:
        OutOfTimeError: there is no time for a product.
    """
    yield Unit("product")
    start, root = first_vector(H) if start is None else start, math.sqrt(H.shape[0])
    u, Hu = root * start, root * (H @ start)
    length = float(torch.linalg.vector_norm(g))
    # By a power of two, so that H g follows without rounding.
    along = 2.0 ** round(math.log2(root / length)) if 0 < length < math.inf else 0.0
    v = along * g if along else _independent(H)
    Hv = H @ v
    gradient_product = Hv / along if along else None
    known = [(u, Hu), (v, Hv)]
    if not (yield Vote(not differing(u, v, Hu, Hv), False)):  # in all processes, if it is in one
        w = _independent(H)
        for direction in (w, u + w):
            yield Unit("product")
            known.append((direction, H @ direction))
        v = w
    return Tested(asymmetry(remembering(H, known), (u, v)), gradient_product)


def _independent(H: LinearOperator) -> Tensor:
    """P standard normal numbers that are independent of `first_vector`, whose seed is 0."""
    random = torch.Generator().manual_seed(1)
    return torch.randn(H.shape[0], generator=random, dtype=torch.float64).to(H.device, H.dtype)


def not_symmetric(size: float) -> str:
    """What the user should know where H - H^T is of this size."""
    return (
        "the second derivative that autograd computes of this loss is not symmetric "
        f"(|H - H^T| is about {size:.1e}), and what depends on it is logged "
        "as NaN. Some backward passes have a wrong derivative: that of PyTorch's fused "
        "weight_norm, embeddings with scale_grad_by_freq, and functions of your own, which "
        "torch.autograd.gradgradcheck tests"
    )


def no_derivative(functions: Sequence[str]) -> str:
    """What the user should know where some functions have a backward pass that is no derivative."""
    return (
        f"the backward pass of {', '.join(functions)} is not the derivative of the forward pass "
        "(as where gradients are reversed, scaled, clipped or passed straight through), so that "
        "products with the Hessian would be those of no function's second derivative, and what "
        "depends on them is logged as NaN. To see the curvature of the loss without it, give "
        "loss=callable(module, batch)"
    )
