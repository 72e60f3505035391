"""Convolutions of every kind."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers import randn
from tests.trust.architectures.build import Lambda, fit, stack
from tests.trust.architectures.case import Case, Problem

LINE, IMAGE, BODY = (6, 2, 7), (6, 2, 5, 5), (4, 2, 3, 4, 3)


def line(*layers: nn.Module) -> Problem:
    return stack(*layers, nn.Tanh(), shape=LINE)


def image(*layers: nn.Module) -> Problem:
    return stack(*layers, nn.Tanh(), shape=IMAGE)


def body(*layers: nn.Module) -> Problem:
    return stack(*layers, nn.Tanh(), shape=BODY)


def unfolded() -> Problem:
    """A convolution as a product with patches."""
    layer = nn.Linear(2 * 9, 3)
    patches = F.unfold(randn(*IMAGE, seed=2), 3).mT
    return fit(nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.LazyLinear(1)), patches)


CASES = [
    Case("Conv1d", lambda: line(nn.Conv1d(2, 3, 3)), quick=True),
    Case("Conv1d stride", lambda: line(nn.Conv1d(2, 3, 3, stride=2))),
    Case("Conv1d dilation", lambda: line(nn.Conv1d(2, 3, 2, dilation=3))),
    Case("Conv1d causal", lambda: line(nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(2, 3, 3))),
    Case("Conv1d same", lambda: line(nn.Conv1d(2, 3, 4, padding="same"))),
    Case("Conv1d reflect", lambda: line(nn.Conv1d(2, 3, 3, padding=1, padding_mode="reflect"))),
    Case("Conv1d one channel out", lambda: line(nn.Conv1d(2, 1, 3))),
    Case("Conv2d", lambda: image(nn.Conv2d(2, 3, 3))),
    Case("Conv2d no bias", lambda: image(nn.Conv2d(2, 3, 3, bias=False))),
    Case("Conv2d 1x1", lambda: image(nn.Conv2d(2, 3, 1))),
    Case("Conv2d stride", lambda: image(nn.Conv2d(2, 3, 3, stride=2, padding=1))),
    Case("Conv2d dilation", lambda: image(nn.Conv2d(2, 3, 2, dilation=2))),
    Case("Conv2d groups", lambda: image(nn.Conv2d(2, 4, 3, groups=2))),
    Case("Conv2d depthwise", lambda: image(nn.Conv2d(2, 2, 3, groups=2))),
    Case(
        "Conv2d separable",
        lambda: image(nn.Conv2d(2, 2, 3, groups=2), nn.Conv2d(2, 3, 1)),
    ),
    Case("Conv2d uneven kernel", lambda: image(nn.Conv2d(2, 3, (1, 3), padding=(0, 2)))),
    Case("Conv2d same", lambda: image(nn.Conv2d(2, 2, (2, 3), padding="same"))),
    *(
        Case(
            f"Conv2d {mode}",
            lambda mode=mode: image(nn.Conv2d(2, 2, 3, padding=1, padding_mode=mode)),
        )
        for mode in ("reflect", "replicate", "circular")
    ),
    Case("Conv2d twice", lambda: image(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 2))),
    Case(
        "Conv2d channels last",
        lambda: image(
            Lambda(lambda x: x.to(memory_format=torch.channels_last)),
            nn.Conv2d(2, 3, 3),
        ),
    ),
    Case("Conv3d", lambda: body(nn.Conv3d(2, 2, 2))),
    Case("Conv3d depthwise", lambda: body(nn.Conv3d(2, 2, 2, groups=2))),
    Case("ConvTranspose1d", lambda: line(nn.ConvTranspose1d(2, 3, 3))),
    Case("ConvTranspose2d", lambda: image(nn.ConvTranspose2d(2, 2, 3, stride=2))),
    Case(
        "ConvTranspose2d groups",
        lambda: image(nn.ConvTranspose2d(2, 4, 2, stride=2, groups=2, output_padding=1)),
    ),
    Case("ConvTranspose3d", lambda: body(nn.ConvTranspose3d(2, 2, 2))),
    Case("unfold and Linear", unfolded),
    Case(
        "autoencoder",
        lambda: fit(
            nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.ConvTranspose1d(3, 2, 3)),
            randn(*LINE, seed=2),
        ),
    ),
]
