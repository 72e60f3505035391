"""Image fits: grey values of a 32 x 32 crop of scikit-image's camera as a function of position.

Targets are relative to the crop's variance: 1e-2 is a recognisable picture, 1e-3 a good one.
"""

from __future__ import annotations

import torch
from torch import nn

from ...networks import mlp, siren
from ..problem import Instance, NotApplicable, Problem
from .fit import fit, standardize

SIDE = 32
CORNER = (96, 224)  # the head of the cameraman, where the detail is


def camera(net: nn.Module) -> Instance:
    try:
        from skimage import data
    except ImportError as error:
        raise NotApplicable("scikit-image is not installed") from error
    top, left = CORNER
    crop = data.camera()[top : top + 2 * SIDE : 2, left : left + 2 * SIDE : 2]
    axis = torch.linspace(-1, 1, SIDE)
    x = torch.cartesian_prod(axis, axis)
    y = torch.tensor(crop, dtype=torch.float64).reshape(-1, 1)
    return fit(net, x, standardize(y))


NETS = {
    "relu": lambda: mlp([2, 64, 64, 1], nn.ReLU),
    "tanh": lambda: mlp([2, 64, 64, 1]),
    "sine": lambda: siren([2, 64, 64, 1]),
}

PROBLEMS = [
    Problem(
        f"camera-{kind}",
        "regression",
        lambda seed, kind=kind: camera(NETS[kind]()),
        targets=(3e-1, 1e-1, 3e-2, 1e-2, 1e-3, 1e-4),
        target=1e-2 if kind == "sine" else 1e-1,
        sizes=frozenset({"standard", "full"} if kind == "sine" else {"full"}),
    )
    for kind in NETS
]
