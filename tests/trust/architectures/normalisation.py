"""Normalisations in both modes, and biases that they make ineffective."""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.helpers import randn
from tests.trust.architectures.build import Lambda, between, fit, stack
from tests.trust.architectures.case import Case, Problem

FUSED = "PyTorch's fused weight_norm has a wrong double backward"
ITERATED = "the singular vectors count as constants, although they follow from the weight"


def image(*layers: nn.Module) -> Problem:
    return stack(*layers, nn.Tanh(), shape=(6, 2, 5, 5))


def evaluated(*layers: nn.Module) -> Problem:
    """Fine-tuning with the running averages as they are."""
    net = nn.Sequential(*layers, nn.Linear(4, 1))
    net(randn(20, 3, seed=5))
    return fit(net.eval(), randn(10, 3, seed=2))


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


class Scaled(nn.Linear):
    """Weight normalisation written out."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.length = nn.Parameter(torch.ones(sizes[1], 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.length * self.weight / self.weight.norm(dim=1, keepdim=True)
        return F.linear(x, weight, self.bias)


class Cosine(nn.Module):
    """Cosines between features and class vectors, with a learned temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.classes = nn.Linear(3, 4), nn.Parameter(torch.randn(3, 4))
        self.temperature = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = F.normalize(self.features(x), dim=1) @ F.normalize(self.classes, dim=1).T
        return self.temperature * z


CASES = [
    Case("BatchNorm1d", lambda: between(nn.BatchNorm1d(4)), steps=30),
    Case("BatchNorm1d alone", lambda: stack(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.Tanh())),
    Case("BatchNorm1d not affine", lambda: between(nn.BatchNorm1d(4, affine=False)), steps=30),
    Case("BatchNorm1d untracked", lambda: between(nn.BatchNorm1d(4, track_running_stats=False))),
    Case(
        "BatchNorm1d without bias before",
        lambda: stack(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Tanh()),
        steps=30,
    ),
    Case(
        "BatchNorm1d twice",
        lambda: between(
            nn.Sequential(nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 4), nn.BatchNorm1d(4))
        ),
        steps=30,
    ),
    Case("BatchNorm1d evaluated", lambda: evaluated(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh())),
    Case("BatchNorm2d", lambda: image(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3)), steps=30, quick=True),
    Case(
        "BatchNorm2d without bias before",
        lambda: image(nn.Conv2d(2, 3, 2, bias=False), nn.BatchNorm2d(3)),
        steps=30,
    ),
    Case("BatchNorm2d and ReLU", lambda: image(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU())),
    Case(
        "InstanceNorm1d",
        lambda: stack(nn.Conv1d(2, 3, 2), nn.InstanceNorm1d(3), nn.Tanh(), shape=(6, 2, 6)),
        steps=30,
    ),
    Case("InstanceNorm2d", lambda: image(nn.Conv2d(2, 3, 2), nn.InstanceNorm2d(3)), steps=30),
    Case(
        "InstanceNorm2d affine",
        lambda: image(nn.Conv2d(2, 3, 2), nn.InstanceNorm2d(3, affine=True)),
    ),
    Case("LayerNorm", lambda: between(nn.LayerNorm(4)), quick=True),
    Case("LayerNorm not affine", lambda: between(nn.LayerNorm(4, elementwise_affine=False))),
    Case("GroupNorm", lambda: image(nn.Conv2d(2, 4, 2), nn.GroupNorm(2, 4))),
    Case(
        "GroupNorm of one channel each",
        lambda: image(nn.Conv2d(2, 4, 2), nn.GroupNorm(4, 4)),
        steps=30,
    ),
    Case("RMSNorm", lambda: between(nn.RMSNorm(4))),
    Case("LocalResponseNorm", lambda: image(nn.Conv2d(2, 4, 2), nn.LocalResponseNorm(2))),
    Case("normalize", lambda: between(Lambda(lambda x: F.normalize(x, dim=1)))),
    Case(
        "standardised by hand",
        lambda: between(Lambda(lambda x: (x - x.mean(0)) / x.std(0))),
        steps=30,
    ),
    Case("cosine classifier", lambda: fit(Cosine(), randn(10, 3, seed=2))),
    Case("weight_norm by hand", lambda: between(Scaled(4, 4))),
    Case(
        "weight_norm, old",
        lambda: between(old_weight_norm(nn.Linear(4, 4))),
        differences=FUSED,
    ),
    Case(
        "weight_norm, parametrization",
        lambda: between(parametrizations.weight_norm(nn.Linear(4, 4))),
        differences=FUSED,
    ),
    Case(
        "spectral_norm, old",
        lambda: between(nn.utils.spectral_norm(nn.Linear(4, 4))),
        unprobed=ITERATED,
    ),
    Case(
        "spectral_norm, parametrization",
        lambda: between(parametrizations.spectral_norm(nn.Linear(4, 4))),
        unprobed=ITERATED,
    ),
    Case(
        "orthogonal parametrization", lambda: between(parametrizations.orthogonal(nn.Linear(4, 4)))
    ),
    Case(
        "Linear, BatchNorm1d, ReLU",
        lambda: fit(
            nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1)),
            randn(20, 3, seed=2),
        ),
        steps=30,
    ),
    Case(
        "Conv2d, BatchNorm2d, ReLU",
        lambda: stack(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), shape=(12, 2, 5, 5)),
        steps=30,
    ),
    Case("Dropout", lambda: between(nn.Dropout(0.3))),
    Case("Dropout2d", lambda: image(nn.Conv2d(2, 3, 2), nn.Dropout2d(0.3))),
    Case("AlphaDropout", lambda: between(nn.AlphaDropout(0.2))),
]
