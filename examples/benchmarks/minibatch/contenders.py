"""The optimizers, and the rates that each is tuned over."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from torch_newton import RegNewton


class Together:
    """Several optimizers that step as one."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = parts

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        for part in self.parts:
            part.step()


@dataclass(frozen=True)
class Contender:
    """An optimizer and its rates.

    Attributes:
        make: from a network and a rate.
        rates: those that are tried.
    """

    make: Callable[[nn.Module, float], Any]
    rates: tuple[float, ...]


def _muon(net: nn.Module, lr: float) -> Together:
    """Muon for matrices, AdamW at the same rate for everything else, as its authors have it."""
    matrices = [p for p in net.parameters() if p.ndim == 2]
    others = [p for p in net.parameters() if p.ndim != 2]
    parts: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    ]
    return Together([*parts, torch.optim.AdamW(others, lr=lr, weight_decay=0.0)])


def _soap(net: nn.Module, lr: float) -> Any:
    from pytorch_optimizer import SOAP

    return SOAP(net.parameters(), lr=lr, weight_decay=0.0)


def peers() -> Mapping[str, Contender]:
    """What this environment has."""
    adam = (1e-3, 3e-3, 1e-2, 3e-2)
    found = {
        "adamw": Contender(
            lambda net, lr: torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.0), adam
        ),
        "sgd": Contender(
            lambda net, lr: torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9),
            (3e-3, 1e-2, 3e-2, 1e-1),
        ),
    }
    if hasattr(torch.optim, "Muon"):
        found["muon"] = Contender(_muon, adam)
    if importlib.util.find_spec("pytorch_optimizer") is not None:
        found["soap"] = Contender(_soap, adam)
    return found


def newton(net: nn.Module, curvature: str = "auto") -> RegNewton:
    """RegNewton with nothing to tune."""
    return RegNewton(net.parameters(), curvature=curvature)
