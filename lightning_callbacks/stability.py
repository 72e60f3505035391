"""The largest curvature at which gradient descent is stable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch


def stability_limit(optimizers: Sequence[torch.optim.Optimizer]) -> float:
    r"""The eigenvalue of H above which gradient descent diverges on a quadratic loss.

    For ``torch.optim.SGD`` with learning rate :math:`\eta`, momentum :math:`\beta`, dampening
    :math:`\tau` and weight decay :math:`w` that is

    .. math:: \frac{2 + 2\beta}{\eta (1 - \tau)} - w, \qquad
              \frac{2 + 2\beta}{\eta (1 + 2\beta)} - w

    without and with Nesterov's momentum: :math:`2/\eta` for the plain method (Polyak 1964; Cohen,
    Kaur, Li, Kolter, Talwalkar 2021, *Gradient descent on neural networks typically occurs at the
    edge of stability*, appendix B). NaN for every other optimizer, whose steps are not multiples
    of the gradient; and where there are several, or groups with limits of their own.
    """
    if len(optimizers) != 1 or not isinstance(optimizers[0], torch.optim.SGD):
        return math.nan
    limits = {_limit(group) for group in optimizers[0].param_groups}
    return limits.pop() if len(limits) == 1 else math.nan


def _limit(group: dict[str, Any]) -> float:
    rate, momentum = float(group["lr"]), float(group["momentum"])
    if group["nesterov"]:
        rate *= 1 + 2 * momentum
    elif momentum:
        rate *= 1 - float(group["dampening"])
    return (2 + 2 * momentum) / rate - float(group["weight_decay"]) if rate > 0 else math.inf
