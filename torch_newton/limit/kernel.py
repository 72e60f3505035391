"""The infinite-width tangent kernel of a network with one hidden layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .activations import CLOSED_FORMS, Angles, Averages
from .quadrature import average

Activation = Callable[[Tensor], Tensor]

SMOOTH: dict[str, Activation] = {"tanh": torch.tanh}


def limit_kernel(
    x: Tensor, activation: str | Activation = "tanh", output_variance: float = 1 / 3
) -> Tensor:
    r"""The kernel :math:`B^*` of `ShallowNetwork` at infinite width, M x M.

    .. math:: B^*_{mm'} = \frac1M \left( E[\sigma(u)\sigma(v)]
              + E[c^2]\,(x_m \cdot x_{m'} + 1)\, E[\sigma'(u)\sigma'(v)] \right)

    with :math:`u = w \cdot x_m + \eta`, :math:`v = w \cdot x_{m'} + \eta` and w, eta standard
    normal: the average of :math:`J J^T / M` over the initialisation, times
    :math:`N^{2\beta - 1}`. It costs M x M operations for a closed form and a few hundred times
    that for a smooth activation (4,096 points: about a minute); for one with a kink at zero,
    some 25,000 evaluations a pair.

    >>> import torch
    >>> x = torch.linspace(0, 1, 4, dtype=torch.float64)[:, None]
    >>> [round(value, 4) for value in torch.linalg.eigvalsh(limit_kernel(x, "relu")).tolist()]
    [0.0029, 0.0065, 0.0751, 0.8414]

    Args:
        x: inputs, M x d, or M for d = 1; computed in float64 whatever their dtype.
        activation: ``"tanh"``, by quadrature; ``"erf"`` or ``"relu"``, in closed form; or any
            elementwise function that autograd can differentiate, by quadrature.
        output_variance: :math:`E[c^2]`, one third for c uniform on (-1, 1).

    Raises:
        ValueError: an unknown name; x is not M x d; `output_variance` is negative.
    """
    if x.ndim == 1:
        x = x[:, None]
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"inputs must have the shape (M, d) or (M,), not {tuple(x.shape)}")
    if not output_variance >= 0:
        raise ValueError(f"output_variance must not be negative, but is {output_variance}")
    pairs = Angles.of(x.detach().double())
    averages = _averages(activation, pairs)
    kernel = averages.values + output_variance * pairs.covariance * averages.slopes
    return kernel / len(x)


def _averages(activation: str | Activation, pairs: Angles) -> Averages:
    if isinstance(activation, str):
        if activation in CLOSED_FORMS:
            return CLOSED_FORMS[activation](pairs)
        if activation not in SMOOTH:
            names = ", ".join(repr(name) for name in (*SMOOTH, *CLOSED_FORMS))
            raise ValueError(f"unknown activation {activation!r}: use {names} or a function")
        activation = SMOOTH[activation]
    return Averages(average(activation, pairs), average(slope_of(activation), pairs))


def slope_of(function: Activation) -> Activation:
    """The derivative of an elementwise function, by autograd."""

    def slope(u: Tensor) -> Tensor:
        with torch.enable_grad():
            point = u.detach().requires_grad_()
            (result,) = torch.autograd.grad(function(point).sum(), point)
        return result

    return slope
