"""The terms of a loss, as several quantities need them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torch_newton.graph.terms import Term

from ..point import Point

MOST = 8
"""Terms of which the numbers are logged one by one: a physics-informed loss has one for each
equation and boundary, while one of dozens is a sum over samples or batches."""

READING = 0.5
"""What finding the terms in the graph is reckoned to take, in evaluations of the loss and its
gradient: it visits each node once, as a backward pass does, and computes less."""


def terms_of(point: Point) -> list[Term]:
    """The terms of the loss whose z is an output of the network.

    Raises:
        OutOfTimeError: there is no time to look for them.
    """
    point.allowance.require(READING * point.allowance.estimate("gradient"))
    return point.residuals.of_outputs


def several(point: Point) -> list[Term]:
    """The terms where there are from two to `MOST`; none elsewhere."""
    terms = terms_of(point)
    return terms if 2 <= len(terms) <= MOST else []


def slope_in_parameters(term: Term, params: Sequence[Tensor]) -> Tensor:
    """The gradient of one term of the loss, P entries, by a backward pass."""
    grads = torch.autograd.grad(
        [term.z], params, [term.gradient], retain_graph=True, materialize_grads=True,
        allow_unused=True,
    )  # fmt: skip
    return torch.cat([grad.detach().reshape(-1) for grad in grads])
