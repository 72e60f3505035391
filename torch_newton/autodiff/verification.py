r"""Whether an operator that is taken for the Hessian is the derivative of the gradient.

A second derivative may be wrong without an error: PyTorch's fused ``weight_norm`` has a backward
pass whose own derivative is wrong, and so have functions that users write. Such an operator H is
found out by two tests along random directions u and v. It should be symmetric,
:math:`u^T H v = v^T H u`, and agree with a difference of gradients,

.. math:: H v \approx D_h v = \frac{g(\theta + h v) - g(\theta - h v)}{2 h}.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linalg.flat import all_finite, norm
from ..linalg.operators import LinearOperator
from .finite_difference import difference_length
from .products import NotTwiceDifferentiableError

Gradient = Callable[[Tensor], Tensor]

SAFETY = 10.0
"""By how much a deviation must exceed the noise that was measured beside it. Where H is right, the
deviation of a difference is a third of the noise if truncation makes it, of the same size if
rounding does, and twice the noise if a single kink lies within the steps. Of 800 tests of ordinary
networks (ReLU, max-pooling, dropout and batch normalisation among them; 64 to 20,000 samples, both
precisions, autocast) none came nearer than twice the noise, and none is flagged."""


class WrongHessianError(NotTwiceDifferentiableError):
    """Autograd gives a second derivative that is not the derivative of the gradient."""


class Verdict(enum.Enum):
    """What two tests along random directions say of H."""

    SOUND = "no deviation that rounding, truncation or kinks could not explain"
    WRONG = "not the derivative of the gradient, which differences of gradients give"
    NO_POTENTIAL = "not symmetric, and neither are differences: it is no function's gradient"


def verify(H: LinearOperator, gradient_at: Gradient, params: Sequence[Tensor]) -> Verdict:
    """Test H by two products and two gradients; by one and six more where these deviate.

    Where H is symmetric and differences of two lengths disagree with each other, symmetry alone
    is trusted. The directions are the same at every call, so that processes and resumed runs
    agree.

    Args:
        H: P x P.
        gradient_at: maps a vector of P entries to the gradient at the current parameters plus it.
        params: the P parameters.
    """
    u, v = _directions(H)
    Hu, Hv = H @ u, H @ v
    if not (all_finite(Hu) and all_finite(Hv)):
        return Verdict.SOUND  # what is not finite is found and reported elsewhere
    length = difference_length(params)
    symmetric = not _asymmetric(H, u, v, Hu, Hv)
    del u, Hu  # two vectors of P entries, which need not stand beside those of the differences
    Dv = _difference(gradient_at, v, length)
    deviation = norm(Dv - Hv)
    # Half of the digits that a difference has at best, eps^(2/3): of 468 runs of 39 ordinary
    # networks it makes 359 do without the second difference, and none needs it in float64 unless
    # a kink is near.
    if symmetric and not deviation > _unit(H) ** (1 / 3) * max(norm(Hv), norm(Dv)):
        return Verdict.SOUND
    finer = _difference(gradient_at, v, length / 2)
    reliable = SAFETY * norm(Dv - finer) <= norm(finer - Hv)
    if symmetric and not reliable:
        return Verdict.SOUND
    u, _ = _directions(H)
    Du = _difference(gradient_at, u, length)
    noise = norm(Du - _difference(gradient_at, u, length / 2)) + norm(Dv - finer)
    if not abs(float(u @ Dv - v @ Du)) > SAFETY * noise:
        return Verdict.WRONG
    # Differences also see what the loss detaches, such as a target or the vectors of a power
    # iteration. With that held fixed, as its author means it, H is right.
    return Verdict.SOUND if symmetric else Verdict.NO_POTENTIAL


@dataclass(frozen=True)
class Asymmetry:
    """How far an operator is from symmetric.

    Attributes:
        size: an estimate of the Frobenius norm of H - H^T.
        explained: whether rounding in the products explains it.
    """

    size: float
    explained: bool


def asymmetry(H: LinearOperator) -> Asymmetry:
    r"""How far H is from symmetric, by two products, and a third where they differ.

    The size is :math:`|u^T H v - v^T H u|` for independent u and v with standard normal entries,
    which is of mean square :math:`\|H - H^T\|_F^2`.
    """
    u, v = _directions(H)
    Hu, Hv = H @ u, H @ v
    return Asymmetry(difference(u, v, Hu, Hv), not _asymmetric(H, u, v, Hu, Hv))


def difference(u: Tensor, v: Tensor, Hu: Tensor, Hv: Tensor) -> float:
    """The size of u^T H v - v^T H u."""
    return abs(float(u @ Hv - v @ Hu))


def differing(u: Tensor, v: Tensor, Hu: Tensor, Hv: Tensor) -> bool:
    """Whether u^T H v and v^T H u differ by so much that rounding must be looked at to explain it.

    u is random, so that u^T H v has an error of the size of that of H v. Half of the digits may be
    lost: a product by autograd loses a few of them, a wrong second derivative hardly any is left.

    Args:
        u: with the identity as its covariance.
        v: of about the same length.
        Hu: H u.
        Hv: H v.
    """
    return not difference(u, v, Hu, Hv) <= torch.finfo(u.dtype).eps ** 0.5 * max(norm(Hu), norm(Hv))


def _directions(H: LinearOperator) -> tuple[Tensor, Tensor]:
    """Two vectors of P normal numbers, drawn without touching the generators of training."""
    generator = torch.Generator().manual_seed(0)
    # One after the other: the double precision in which they are drawn, so that they do not depend
    # on the dtype, takes memory, too.
    u, v = (
        torch.randn(H.shape[0], generator=generator, dtype=torch.float64).to(H.device, H.dtype)
        for _ in range(2)
    )
    return u, v


def _asymmetric(H: LinearOperator, u: Tensor, v: Tensor, Hu: Tensor, Hv: Tensor) -> bool:
    """Whether u^T H v and v^T H u differ by more than rounding makes them."""
    if not differing(u, v, Hu, Hv):
        return False
    return exceeds_rounding(u, v, Hu, Hv, H @ (u + v))


def exceeds_rounding(u: Tensor, v: Tensor, Hu: Tensor, Hv: Tensor, of_sum: Tensor) -> bool:
    """Whether u^T H v and v^T H u differ by more than the rounding that H (u + v) shows.

    The products are linear but for rounding, whatever precision the operations have.

    Args:
        u: P entries.
        v: likewise.
        Hu: H u.
        Hv: H v.
        of_sum: H (u + v), which is overwritten.
    """
    rounding = norm(of_sum.sub_(Hu).sub_(Hv))
    return difference(u, v, Hu, Hv) > SAFETY * rounding


def _difference(gradient_at: Gradient, v: Tensor, length: float) -> Tensor:
    h = length / norm(v)
    return (gradient_at(h * v) - gradient_at(-h * v)).div_(2 * h)


def _unit(H: LinearOperator) -> float:
    return torch.finfo(H.dtype).eps
