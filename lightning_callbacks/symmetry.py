"""Whether the Hessian is symmetric, in the time that there is."""

from __future__ import annotations

import math

import torch

from torch_newton import LinearOperator
from torch_newton.autodiff.verification import Asymmetry, asymmetry

from .allowance import Allowance, OutOfTimeError
from .bounded import LEAST, first_vector
from .second_order import remembering
from .work import Unit, Work, run


def asymmetry_within(H: LinearOperator, allowance: Allowance) -> Asymmetry:
    """How far H is from symmetric, in one pause: see `asymmetry_work`."""
    if allowance.unlimited:
        return asymmetry(H)
    return run(asymmetry_work(H, allowance), allowance)


def asymmetry_work(H: LinearOperator, allowance: Allowance) -> Work[Asymmetry]:
    r"""How far H is from symmetric, by :math:`|u^T H v - v^T H u|`, where there is time to look.

    As u serves the start of the Lanczos process, whose product H knows already, at the length
    :math:`\sqrt P` of P standard normal numbers. So this takes one product more, and another where
    the two sides differ.

    Args:
        H: P x P, which knows its product with `first_vector`.
        allowance: the time that there is.

    Returns:
        What was found; where there is no time for these products and a spectrum, an H that is
        taken to be symmetric, as `Allowance.reduced` then tells.
    """
    # At most two products here, and one in the cheapest spectrum, which begins with the known one.
    product = allowance.estimate("product")
    try:
        if not allowance.plans((2 + LEAST - 1) * product):
            raise OutOfTimeError(math.inf)
        yield Unit("symmetry", lambda: 2 * allowance.estimate("product"))
    except OutOfTimeError:
        allowance.reduced = True
        return Asymmetry(0.0, True)
    start, length = first_vector(H), math.sqrt(H.shape[0])
    u = length * start
    random = torch.Generator().manual_seed(1)  # that of first_vector is 0; they are independent
    v = torch.randn(H.shape[0], generator=random, dtype=torch.float64).to(H.device, H.dtype)
    return asymmetry(remembering(H, u, length * (H @ start)), (u, v))
