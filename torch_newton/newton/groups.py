"""What a step reads of the optimizer's parameter groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..closure.capture import ClosureError
from ..linalg.flat import flatten
from .checks import check_group, check_params, check_rates

Groups = Sequence[dict[str, Any]]


def trained(groups: Groups) -> list[Tensor]:
    """The parameters that a step moves, checked: they may have changed since the last.

    Raises:
        ClosureError: there is none.
        TypeError: a parameter or an option has a type that `RegNewton` does not take.
        ValueError: an option is out of its range, or parameters differ in dtype or device.
    """
    params = [p for group in groups for p in group["params"] if p.requires_grad]
    if not params:
        raise ClosureError("no parameter requires a gradient: leave some of them trainable")
    check_params(params)
    for group in groups:
        check_group(group)  # which may have been written to since the last step
        check_rates(group["lr"], group["weight_decay"])
    return params


def weight_decays(groups: Groups, params: Sequence[Tensor]) -> list[float] | None:
    """The weight decay of each parameter; None where none has any."""
    if not any(group["weight_decay"] for group in groups):
        return None
    found = {p: float(group["weight_decay"]) for group in groups for p in group["params"]}
    weights = [found[p] for p in params]
    return weights if any(weights) else None


def step_lengths(groups: Groups, params: Sequence[Tensor]) -> float | Tensor:
    """The step in units of the solution: one number, or P where the groups' `lr` differ."""
    rates = {p: float(group["lr"]) for group in groups for p in group["params"]}
    if len({rates[p] for p in params}) == 1:
        return rates[params[0]]
    return flatten(torch.full_like(p, rates[p]) for p in params)
