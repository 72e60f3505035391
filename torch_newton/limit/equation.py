"""The linear equations that wide networks follow while they train."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def newton_kernel(kernel: Tensor, gamma: float) -> Tensor:
    r"""The Newton neural tangent kernel :math:`B(\gamma I + B)^{-1}`, M x M.

    Riedl, Spiliopoulos and Sirignano (2026), arXiv 2605.08352.

    Args:
        kernel: B, symmetric positive semidefinite.
        gamma: positive.

    Raises:
        ValueError: `kernel` is not square, or `gamma` is not positive.
    """
    equation = LimitEquation.newton(kernel, gamma)
    return (equation.modes * equation.rates) @ equation.modes.T


@dataclass(frozen=True)
class LimitEquation:
    r"""The equation :math:`f_{t+1} = f_t + K (y - f_t)`, solved mode by mode.

    A mode is an eigenvector of K, its rate the eigenvalue: the share of the mode's residual
    that a step removes. For regularized Newton the network of infinite width follows it with
    :math:`K = \alpha B^* (\gamma I + B^*)^{-1}` (Riedl, Spiliopoulos and Sirignano 2026), for
    gradient descent with :math:`K = \eta B^*` (Jacot, Gabriel and Hongler 2018).

    Attributes:
        kappa: eigenvalues of B, descending, M.
        rates: eigenvalues of K in the same order, M.
        modes: the eigenvectors as columns, M x M.
    """

    kappa: Tensor
    rates: Tensor
    modes: Tensor

    @classmethod
    def newton(cls, kernel: Tensor, gamma: float, lr: float = 1.0) -> LimitEquation:
        r"""Regularized Newton: rates :math:`\alpha\kappa/(\kappa + \gamma)`.

        Args:
            kernel: B, M x M, symmetric positive semidefinite.
            gamma: the damping, positive.
            lr: alpha; the equation is stable for 0 < alpha <= 2 whatever the spectrum.

        Raises:
            ValueError: `kernel` is not square, or `gamma` is not positive.
        """
        if not gamma > 0:
            raise ValueError(f"gamma must be positive, not {gamma}")
        kappa, modes = _spectrum(kernel)
        return cls(kappa, lr * kappa / (kappa + gamma), modes)

    @classmethod
    def gradient_descent(cls, kernel: Tensor, lr: float | None = None) -> LimitEquation:
        r"""Gradient descent: rates :math:`\eta\kappa`, with :math:`\eta = 1/\kappa_{max}` unless given.

        Raises:
            ValueError: `kernel` is not square, or zero where `lr` is left to it.
        """  # noqa: E501
        kappa, modes = _spectrum(kernel)
        if lr is None:
            if not bool(kappa[0] > 0):
                raise ValueError("the kernel is zero: give the learning rate")
            lr = 1 / float(kappa[0])
        return cls(kappa, lr * kappa, modes)

    @property
    def stable(self) -> bool:
        """Whether no mode grows under the discrete equation."""
        return bool((self.rates <= 2).all())

    def at_step(self, steps: int | Tensor, start: Tensor, target: Tensor) -> Tensor:
        r""":math:`f_t = y - (I - K)^t (y - f_0)`.

        Args:
            steps: t, a whole number, or several as a tensor of shape T.
            start: f_0, M entries.
            target: y, M entries.

        Returns:
            M entries, or T x M.
        """
        t = torch.as_tensor(steps, dtype=self.rates.dtype)
        return self._solution((1 - self.rates) ** t[..., None], start, target)

    def at_time(self, time: float | Tensor, start: Tensor, target: Tensor) -> Tensor:
        r"""The flow :math:`df/dt = K (y - f)`: :math:`f(t) = y - e^{-tK} (y - f_0)`.

        Args and result as for `at_step`, with real times.
        """
        t = torch.as_tensor(time, dtype=self.rates.dtype)
        return self._solution(torch.exp(-self.rates * t[..., None]), start, target)

    def steps(self, factor: float) -> Tensor:
        r"""Steps until each mode's residual is `factor` of its start.

        .. math:: t_j = \ln(factor) / \ln|1 - rate_j|,

        not rounded; infinite for a mode that does not shrink, zero for one that a single step
        removes wholly.

        Raises:
            ValueError: `factor` is not between zero and one.
        """
        if not 0 < factor < 1:
            raise ValueError(f"factor must be between 0 and 1, not {factor}")
        small = torch.log1p(-self.rates.clamp(max=0.5))  # log1p keeps the digits of a small rate
        logs = torch.where(self.rates < 0.5, small, (1 - self.rates).abs().log())
        counts = torch.log(torch.tensor(factor, dtype=logs.dtype)) / logs
        return torch.where(logs < 0, counts, torch.full_like(counts, torch.inf))

    def _solution(self, left: Tensor, start: Tensor, target: Tensor) -> Tensor:
        start, target = start.to(self.modes), target.to(self.modes)
        return target - (left * (self.modes.T @ (target - start))) @ self.modes.T


def _spectrum(kernel: Tensor) -> tuple[Tensor, Tensor]:
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(f"a kernel must be a square matrix, not {tuple(kernel.shape)}")
    kappa, modes = torch.linalg.eigh(kernel.detach().double())
    # What rounding has made negative is zero: a kernel is positive semidefinite.
    return kappa.clamp(min=0).flip(0), modes.flip(1)
