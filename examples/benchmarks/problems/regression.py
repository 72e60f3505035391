"""Regression: high frequencies, the RSS training problem, data sets, ordinary nets.

Targets are in units of the variance of y (predicting the mean costs 1), except for the RSS
problem, whose loss is the paper's own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...networks import mlp, siren
from ..problem import Instance, NotApplicable, Problem, Rows
from .fit import ScaledResidual, fit, standardize

WIDTHS = (64, 256, 1024, 4096)


def high_frequency(width: int) -> Instance:
    """Y = sin 2 pi x + 0.5 sin 6 pi x + 0.25 sin 10 pi x on 200 points of [-1, 1], 1-width-1."""
    x = torch.linspace(-1, 1, 200).unsqueeze(1)
    y = sum(a * torch.sin(k * math.pi * x) for a, k in ((1, 2), (0.5, 6), (0.25, 10)))
    return fit(mlp([1, width, 1]), x, standardize(y))


class MeanFieldNet(nn.Module):
    """f(x) = N^-beta sum_i c_i tanh(w_i x + eta_i), w, eta ~ N(0, 1), c ~ U(-1, 1).

    Riedl, Spiliopoulos and Sirignano 2026, arXiv 2605.08352.
    """

    def __init__(self, width: int, beta: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(1, width)
        self.output = nn.Linear(width, 1, bias=False)
        self.scale = width**-beta
        nn.init.normal_(self.hidden.weight)
        nn.init.normal_(self.hidden.bias)
        nn.init.uniform_(self.output.weight, -1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.output(torch.tanh(self.hidden(x)))


def rss_training(width: int = 1000) -> Instance:
    """The paper's training comparison: N = 1000, beta = 0.52, M = 128, loss 1/(2M) sum r^2."""
    x = torch.linspace(0, 1, 128).unsqueeze(1)
    y = 4 * x + torch.sin(2 * math.pi * x)
    y = y + 0.8 * sum(torch.sin(k * math.pi * x) for k in (8, 10, 16))
    net = MeanFieldNet(width, 0.52)
    return Instance(
        params=list(net.parameters()),
        loss=lambda: ((net(x) - y) ** 2).sum() / (2 * len(x)),
        rows=Rows(ScaledResidual(net, math.sqrt(0.5)), [x, y]),
    )


def small_regression() -> Instance:
    """1-64-1 tanh on 64 points of sin 5x + 0.5 sin 13x."""
    x = torch.linspace(-1, 1, 64).unsqueeze(1)
    y = torch.sin(5 * x) + 0.5 * torch.sin(13 * x)
    return fit(mlp([1, 64, 1]), x, standardize(y))


def circle() -> Instance:
    """2x128 tanh on 64 points of the unit circle; y = sum_k cos(k phi + k^2) / k, k = 1..6."""
    phi = 2 * math.pi * torch.arange(64) / 64
    x = torch.stack([phi.cos(), phi.sin()], dim=1)
    y = sum(torch.cos(k * phi + k * k) / k for k in range(1, 7)).unsqueeze(1)
    return fit(mlp([2, 128, 128, 1]), x, standardize(y))


def relu_regression() -> Instance:
    """3x64 ReLU on 256 normal points of R^4; y = sin 2 x1 + x2 x3 + |x4|."""
    x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    y = torch.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + x[:, 3].abs()
    return fit(mlp([4, 64, 64, 64, 1], nn.ReLU), x, standardize(y.unsqueeze(1)))


def co2_record() -> Instance:
    """Monthly means of the Mauna Loa CO2 record (statsmodels), fitted by a sine network.

    The first layer's frequency, 2 pi 22, lets the net see the year in 44 years of [-1, 1].
    """
    try:
        from statsmodels.datasets import co2
    except ImportError as error:
        raise NotApplicable("statsmodels is not installed") from error
    record = co2.load_pandas().data["co2"].resample("MS").mean().dropna()
    days = (record.index - record.index[0]).days.to_numpy(dtype=float)
    x = torch.tensor(2 * days / days[-1] - 1).unsqueeze(1)
    y = torch.tensor(record.to_numpy(dtype=float)).unsqueeze(1)
    return fit(siren([1, 64, 64, 1], first_frequency=2 * math.pi * 22), x, standardize(y))


def diabetes() -> Instance:
    """The 442 patients of scikit-learn's diabetes data, 10-32-1 tanh, full batch."""
    try:
        from sklearn.datasets import load_diabetes
    except ImportError as error:
        raise NotApplicable("scikit-learn is not installed") from error
    x, y = load_diabetes(return_X_y=True)
    y = torch.as_tensor(y).unsqueeze(1)
    return fit(mlp([10, 32, 1]), standardize(torch.as_tensor(x)), standardize(y))


FALLING = (1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10)

PROBLEMS = [
    *(
        Problem(
            f"high-frequency-{width}",
            "regression",
            lambda seed, width=width: high_frequency(width),
            targets=FALLING,
            target=1e-4,
            sizes=frozenset({"standard", "full"} if width == 256 else {"full"}),
        )
        for width in WIDTHS
    ),
    Problem(
        "rss-training",
        "regression",
        lambda seed: rss_training(),
        targets=(1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7),
        target=1e-4,
        sizes=frozenset({"standard", "full"}),
    ),
    Problem(
        "small-regression",
        "regression",
        lambda seed: small_regression(),
        targets=FALLING,
        target=1e-6,
        sizes=frozenset({"short", "standard", "full"}),
    ),
    Problem(
        "circle",
        "regression",
        lambda seed: circle(),
        targets=(*FALLING, 1e-14, 1e-20),
        target=1e-6,
        sizes=frozenset({"short", "standard", "full"}),
    ),
    Problem(
        "relu-regression",
        "regression",
        lambda seed: relu_regression(),
        targets=(*FALLING, 1e-14, 1e-20),
        target=1e-6,
        sizes=frozenset({"standard", "full"}),
    ),
    # 1e-2 is the trend alone; 1e-3 (0.5 ppm) needs the seasons.
    Problem(
        "co2-record",
        "regression",
        lambda seed: co2_record(),
        targets=(1e-1, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4),
        target=1e-3,
        sizes=frozenset({"standard", "full"}),
    ),
    Problem(
        "diabetes",
        "regression",
        lambda seed: diabetes(),
        targets=(0.45, 0.4, 0.3, 0.2, 0.1, 0.05),
        target=0.2,
    ),
]
