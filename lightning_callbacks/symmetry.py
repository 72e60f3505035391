"""Whether the Hessian is symmetric, in the time that there is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_newton import LinearOperator
from torch_newton.autodiff.verification import (
    Asymmetry,
    asymmetry,
    difference,
    differing,
    exceeds_rounding,
)
from torch_newton.linalg.flat import norm

from .allowance import Allowance
from .bounded import first_vector
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


def asymmetry_within(
    H: LinearOperator, g: Tensor, allowance: Allowance, first: Callable[[], Tensor] | None = None
) -> Asymmetry:
    """How far H is from symmetric, in one pause: see `asymmetry_work`."""
    if allowance.unlimited:
        return asymmetry(H)
    return run(asymmetry_work(H, g, allowance, None, first), allowance).asymmetry


def asymmetry_work(
    H: LinearOperator,
    g: Tensor,
    allowance: Allowance,
    start: Tensor | None = None,
    first: Callable[[], Tensor] | None = None,
) -> Work[Tested]:
    r"""How far H is from symmetric, by :math:`|u^T H v - v^T H u|`.

    Both products serve other ends, so that the test takes none of its own: u is the start of the
    Lanczos process, whose product is known already, at the length :math:`\sqrt P` of P standard
    normal numbers; v is the gradient at that length, whose product sharpness, precision and lambda
    ask for. As u is random, a part of H that is antisymmetric shows unless it takes g to zero.
    Where the two sides differ by more than half of the digits, two further products decide, with
    a random vector in place of g: rounding errors in H u may lie along g, and hardly along that.

    Vectors that can be made again are not held while a product is taken.

    Args:
        H: P x P.
        g: the gradient, P entries.
        allowance: the time that there is.
        start: `first_vector` of H, where it has been drawn already.
        first: returns H times `first_vector`; where None, that product is taken.

    Raises:
        OutOfTimeError: there is no time for a product.
    """
    yield Unit("product")
    root, length = math.sqrt(H.shape[0]), norm(g)
    start = first_vector(H) if start is None else start
    Hstart = H @ start if first is None else first()
    # By a power of two, so that H g follows without rounding.
    along = 2.0 ** round(math.log2(root / length)) if 0 < length < math.inf else 0.0
    v = along * g if along else _independent(H)
    Hv = H @ v
    u, Hu = root * start, root * Hstart
    size, agree = difference(u, v, Hu, Hv), not differing(u, v, Hu, Hv)
    del u, v, Hu
    gradient_product = Hv.div_(along) if along else None
    del Hv
    if (yield Vote(agree, False)):  # in all processes, if it is in one
        return Tested(Asymmetry(size, True), gradient_product)
    yield Unit("product")
    Hw = H @ _independent(H)
    yield Unit("product")
    of_sum = H @ (root * start + _independent(H))
    u, w, Hu = root * start, _independent(H), root * Hstart
    size = difference(u, w, Hu, Hw)
    wrong = differing(u, w, Hu, Hw) and exceeds_rounding(u, w, Hu, Hw, of_sum)
    return Tested(Asymmetry(size, not wrong), gradient_product)


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
