"""Fourier layers and complex activations behind real parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.helpers import randn
from tests.trust.architectures.build import fit
from tests.trust.architectures.case import Case, Problem


class Weighted(nn.Module):
    """A real array of weights, used by the function given, and a linear layer behind."""

    def __init__(self, shape: tuple[int, ...], use: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.5 * torch.randn(shape))
        self.use, self.head = use, nn.LazyLinear(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.use(x, self.weight)).flatten(1))


class Odd(Weighted):
    """The same behind one real number, so that the weights lie at an odd offset."""

    def __init__(self, shape: tuple[int, ...], use: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(shape, use)
        weight = self.weight
        del self.weight
        self.scale, self.weight = nn.Parameter(torch.ones(())), weight

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * super().forward(x)


def filtered(x: Tensor, w: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x) * w, n=8)


def as_complex(x: Tensor, w: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x) * torch.view_as_complex(w), n=8)


def truncated(x: Tensor, w: Tensor) -> Tensor:
    modes = torch.fft.rfft(x)
    kept = modes[:, :3] * torch.complex(w[0], w[1])
    return torch.fft.irfft(torch.cat([kept, torch.zeros_like(modes[:, 3:])], 1), n=8)


def plane(x: Tensor, w: Tensor) -> Tensor:
    modes = torch.fft.rfft2(x.view(-1, 4, 2)) * torch.view_as_complex(w)
    return torch.fft.irfft2(modes, s=(4, 2))


def channels(x: Tensor, w: Tensor) -> Tensor:
    """Mixing of channels in each mode, as in a Fourier neural operator."""
    modes = torch.fft.rfft(x.view(-1, 2, 4))
    return torch.fft.irfft(torch.einsum("bix,iox->box", modes, torch.view_as_complex(w)), n=4)


def states(x: Tensor, w: Tensor) -> Tensor:
    """A diagonal state-space model: powers of complex numbers within the unit circle."""
    poles = torch.exp(torch.complex(-w[0].exp(), w[1]))
    kernel = (torch.complex(w[2], w[3])[:, None] * poles[:, None] ** torch.arange(8)).sum(0).real
    return torch.fft.irfft(torch.fft.rfft(x, n=16) * torch.fft.rfft(kernel, n=16), n=16)[:, :8]


def scanned(x: Tensor, w: Tensor) -> Tensor:
    """The same by a loop."""
    poles = torch.polar(torch.sigmoid(w[0]), w[1])
    state = torch.zeros(len(x), 2, dtype=torch.complex128)
    for t in range(8):
        state = poles * state + x[:, t, None] * torch.complex(w[2], w[3])
    return torch.cat([state.real, state.imag], 1)


def sizes(x: Tensor, w: Tensor) -> Tensor:
    return (torch.complex(x[:, :4], x[:, 4:]) @ torch.complex(w[0], w[1])).abs()


def mod_relu(x: Tensor, w: Tensor) -> Tensor:
    z = torch.complex(x[:, :4], x[:, 4:]) @ torch.complex(w[0], w[1])
    return torch.view_as_real(torch.relu(z.abs() - 0.1) * z / z.abs()).flatten(1)


def phases(x: Tensor, w: Tensor) -> Tensor:
    return torch.exp(1j * (x @ w)).real


def short_time(x: Tensor, w: Tensor) -> Tensor:
    modes = torch.stft(x * w, 4, window=torch.ones(4).to(x), return_complex=True)
    return torch.log(modes.abs() + 0.1)


def by_matrix(x: Tensor, w: Tensor) -> Tensor:
    n = torch.arange(8).to(x)
    cosines = torch.cos(torch.pi / 8 * (n[:, None] + 0.5) * n)
    return (x @ cosines * w) @ cosines.T


def of(shape: tuple[int, ...], use: Callable[[Tensor, Tensor], Tensor]) -> Problem:
    return fit(Weighted(shape, use), randn(6, 8, seed=2))


CASES = [
    Case("Fourier filter", lambda: of((5,), filtered), quick=True),
    Case("Fourier filter, view_as_complex", lambda: of((5, 2), as_complex)),
    Case("Fourier filter, odd offset", lambda: fit(Odd((5, 2), as_complex), randn(6, 8, seed=2))),
    Case("Fourier layer of three modes", lambda: of((2, 3), truncated)),
    Case("Fourier layer in the plane", lambda: of((4, 2, 2), plane)),
    Case("Fourier neural operator", lambda: of((2, 2, 3, 2), channels)),
    Case("state-space model, convolution", lambda: of((4, 3), states)),
    Case("state-space model, loop", lambda: of((4, 2), scanned)),
    Case("complex layer, abs", lambda: of((2, 4, 3), sizes)),
    Case("complex layer, modReLU", lambda: of((2, 4, 3), mod_relu)),
    Case("complex exponential", lambda: of((8, 3), phases)),
    Case("short-time Fourier transform", lambda: of((8,), short_time)),
    Case("cosine transform", lambda: of((8,), by_matrix)),
]
