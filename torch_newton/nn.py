"""Networks as the theory of wide networks writes them, as ordinary modules."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]


def check_beta(owner: str, beta: float) -> float:
    """`beta`, the exponent of a network's output scaling N^-beta, for what `owner` makes of it.

    Raises:
        ValueError: it is not in [1/2, 1).
    """
    if not 0.5 <= beta < 1:
        raise ValueError(
            f"{owner} needs an output scaling of 1/2 <= beta < 1, not {beta}: below, the output "
            "grows with the width; from 1 on no exponent of the damping is admissible"
        )
    return beta


class ShallowNetwork(nn.Module):
    r"""The network :math:`f(x) = N^{-\beta} \sum_{i=1}^N c_i\,\sigma(w_i \cdot x + \eta_i)`.

    Riedl, Spiliopoulos and Sirignano (2026), arXiv 2605.08352, study Newton's method on it and
    draw :math:`w_i, \eta_i \sim N(0, 1)` and :math:`c_i \sim U(-1, 1)`, all independent, in
    double precision. Maps inputs of shape (..., `in_features`) to outputs of shape (..., 1).

    >>> import torch
    >>> net = ShallowNetwork(2, 100, dtype=torch.float64)
    >>> net(torch.zeros(5, 2, dtype=torch.float64)).shape
    torch.Size([5, 1])

    Args:
        in_features: d.
        width: N, the number of hidden units.
        beta: exponent of the output scaling, in [1/2, 1).
        activation: sigma, elementwise.
        antisymmetric: whether the second half of the units is a copy of the first with the
            opposite sign of c, so that the output is zero at the start, but for rounding, and
            the tangent kernel there is that of the first half, counted twice; N must be even.
        generator: draws the parameters.
        dtype: of the parameters; PyTorch's default where None.
        device: of the parameters.

    Raises:
        ValueError: a size is not positive, `beta` is out of its range, or the width is odd with
            `antisymmetric`.
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        beta: float = 0.52,
        activation: Activation = torch.tanh,
        *,
        antisymmetric: bool = False,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if in_features < 1 or width < 1:
            raise ValueError(
                f"ShallowNetwork needs at least one input and one unit, not {in_features} and "
                f"{width}"
            )
        if antisymmetric and width % 2:
            raise ValueError(f"antisymmetric units come in pairs: make the width {width} even")
        self.beta: float = check_beta("ShallowNetwork", beta)
        self.activation = activation
        self.antisymmetric = antisymmetric
        self.hidden: nn.Linear = nn.Linear(in_features, width, dtype=dtype, device=device)
        self.output: nn.Linear = nn.Linear(width, 1, bias=False, dtype=dtype, device=device)
        self.reset_parameters(generator)

    @property
    def width(self) -> int:
        """N."""
        return self.hidden.out_features

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all parameters anew."""
        self.hidden.weight.normal_(generator=generator)
        self.hidden.bias.normal_(generator=generator)
        self.output.weight.uniform_(-1.0, 1.0, generator=generator)
        if self.antisymmetric:
            half = self.width // 2
            self.hidden.weight[half:] = self.hidden.weight[:half]
            self.hidden.bias[half:] = self.hidden.bias[:half]
            self.output.weight[:, half:] = -self.output.weight[:, :half]

    def forward(self, x: Tensor) -> Tensor:
        """The outputs, (..., 1), of the inputs x, (..., in_features)."""
        outputs: Tensor = self.output(self.activation(self.hidden(x)))
        return float(self.width**-self.beta) * outputs

    def extra_repr(self) -> str:
        return f"beta={self.beta}, antisymmetric={self.antisymmetric}"


class ScaledOutput(nn.Module):
    r""":math:`x \mapsto \alpha f(x)` for a module f.

    A larger :math:`\alpha` multiplies the tangent kernel by :math:`\alpha^2`, so that a target
    is fitted by a smaller move of the parameters, nearer to the linearization at the start
    (Chizat, Oyallon and Bach 2019, *On lazy training in differentiable programming*).

    Args:
        module: f, with one tensor as its output.
        scale: :math:`\alpha`, not zero.

    Raises:
        ValueError: `scale` is zero or not finite.
    """

    def __init__(self, module: nn.Module, scale: float) -> None:
        super().__init__()
        if scale == 0 or not math.isfinite(scale):
            raise ValueError(f"ScaledOutput needs a finite scale that is not zero, not {scale}")
        self.module = module
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """The scaled outputs."""
        outputs: Tensor = self.scale * self.module(x)
        return outputs

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


class Antisymmetric(nn.Module):
    r""":math:`x \mapsto (f(x) - g(x)) / \sqrt 2` with g a copy of f that is trained too.

    The output is zero at the start, and the tangent kernel there is that of f (Zhang, Xu, Luo
    and Ma 2020, *A type of generalization error induced by initialization in deep neural
    networks*). Random layers such as dropout differ between f and g, and spoil this.

    >>> import torch
    >>> from torch import nn
    >>> model = Antisymmetric(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)))
    >>> model(torch.ones(2, 3)).tolist()
    [[0.0], [0.0]]

    Args:
        module: f, initialised as wished.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.positive = module
        self.negative: nn.Module = copy.deepcopy(module)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs."""
        difference: Tensor = self.positive(x) - self.negative(x)
        return difference / math.sqrt(2)
