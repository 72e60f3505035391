"""Activations, and the ways in which layers are joined."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import randn
from tests.trust.architectures.build import Lambda, between, fit
from tests.trust.architectures.case import Case

SIMPLE = [
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Softplus, nn.Softsign, nn.Sigmoid, nn.LogSigmoid, nn.Hardtanh, nn.Hardswish, nn.ReLU6,
    nn.Tanhshrink, nn.Softshrink, nn.RReLU,
]  # fmt: skip


class Snake(nn.Module):
    """x + sin^2(a x) / a, with a learned frequency."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(self.a * x) ** 2 / self.a


class Rational(nn.Module):
    """A learned quotient of polynomials."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.q = nn.Parameter(0.3 * torch.randn(4)), nn.Parameter(0.3 * torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        above = sum(c * x**i for i, c in enumerate(self.p))
        below = 1 + (self.q[0] * x + self.q[1] * x**2).abs()
        return above / below


class Swish(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


class SwiGLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Gated(Residual):
    """ReZero: a residual branch whose weight starts at zero."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight * self.inner(x)


class Dense(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inner(x)], 1)


class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.inner = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        t = torch.sigmoid(self.gate(x))
        return t * torch.tanh(self.inner(x)) + (1 - t) * x


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(1, 3, 2), nn.Linear(3, 2), nn.Linear(2, 3)
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.conv(x))
        weights = torch.sigmoid(self.b(F.relu(self.a(z.mean((2, 3))))))
        return self.head((z * weights[..., None, None]).mean((2, 3)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.inner = nn.Conv1d(1, 2, 3, padding=1), nn.Conv1d(2, 2, 3, padding=1)
        self.up, self.out = nn.ConvTranspose1d(2, 2, 2, stride=2), nn.Conv1d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.tanh(self.down(x))
        deep = torch.tanh(self.inner(F.avg_pool1d(first, 2)))
        return self.out(torch.cat([first, self.up(deep)], 1))


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Bilinear(2, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[:, :2], x[:, 2:])


CASES = [
    *(Case(kind.__name__, lambda kind=kind: between(kind())) for kind in SIMPLE),
    Case(
        "Hardsigmoid", lambda: between(nn.Hardsigmoid()), differences="it has no second derivative"
    ),
    Case("GELU, tanh", lambda: between(nn.GELU("tanh"))),
    Case("Softmax", lambda: between(nn.Softmax(1))),
    Case("LogSoftmax", lambda: between(nn.LogSoftmax(1))),
    Case("GLU", lambda: between(nn.GLU(), features=2)),
    Case(
        "maxout", lambda: between(Lambda(lambda x: torch.maximum(x[:, :2], x[:, 2:])), features=2)
    ),
    Case("PReLU each", lambda: between(nn.PReLU(4))),
    Case("snake", lambda: between(Snake())),
    Case("Swish, learned", lambda: between(Swish())),
    Case("rational activation", lambda: between(Rational())),
    Case("SwiGLU", lambda: between(SwiGLU())),
    Case("residual", lambda: between(Residual(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)))),
    Case("residual in place", lambda: between(Residual(nn.Linear(4, 4), nn.ReLU(inplace=True)))),
    Case("ReZero", lambda: between(Gated(nn.Linear(4, 4), nn.Tanh()))),
    Case("dense connections", lambda: between(Dense(nn.Linear(4, 3), nn.Tanh()), features=7)),
    Case("highway", lambda: between(Highway())),
    Case("squeeze and excite", lambda: fit(SqueezeExcite(), randn(6, 1, 4, 4, seed=2))),
    Case("U-Net", lambda: fit(UNet(), randn(4, 1, 6, seed=2))),
    Case("Bilinear", lambda: between(Bilinear(), features=3)),
    Case("sorted", lambda: between(Lambda(lambda x: x.sort(1).values))),
    Case("top two", lambda: between(Lambda(lambda x: x.topk(2, 1).values), features=2)),
    Case("clamp", lambda: between(Lambda(lambda x: x.clamp(-0.3, 0.3)))),
    Case(
        "clamp_ that changes nothing",
        lambda: between(Lambda(lambda x: x.clone().clamp_(-1e3, 1e3))),
    ),
    Case("cumsum", lambda: between(Lambda(lambda x: x.cumsum(1)))),
    Case("flip and roll", lambda: between(Lambda(lambda x: x.flip(1) * x.roll(1, 1)))),
    Case("powers and quotients", lambda: between(Lambda(lambda x: x**3 / (1 + x**2)))),
]
