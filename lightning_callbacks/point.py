"""The point at which a loss's curvature is measured, and what can be known of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from torch_newton import KernelSpectrum, LinearOperator, Step, kernel_spectrum
from torch_newton.autodiff.verification import Asymmetry, asymmetry

from .jacobian import Rows, in_scaled_variables
from .spectrum import Spectrum, hessian_spectrum, hessian_trace


@dataclass(frozen=True)
class Settings:
    """How closely to look.

    Attributes:
        exact_up_to: the largest number of parameters P for which H is formed.
        max_rows: all eigenvalues of a kernel are computed where the smaller of its rows and P is
            at most this.
        max_products: Lanczos steps at most beyond either.
        eigenvectors: whether H's eigenvectors are computed with its eigenvalues.
        rounding: unit of rounding of the products, where it is above that of the dtype.
    """

    exact_up_to: int
    max_rows: int
    max_products: int
    eigenvectors: bool = False
    rounding: float = 0.0


@dataclass(frozen=True)
class Point:
    """A loss L, its derivatives, and what follows from them, each computed once if it is used.

    Attributes:
        loss: L, a scalar with its graph.
        params: the parameters, P entries in all.
        gradient: of L, P entries.
        H: the exact Hessian, P x P, as products.
        damping: lambda, absolute.
        settings: how closely to look.
        read_jacobian: returns the Jacobian of the outputs, None where there are none.
        warn: called where H is not symmetric.
        scaling: D^{-1/2}, P entries, where the damping is lambda D instead of lambda I.
        gram: the smaller Gram matrix of the weighted Jacobian, where a step has formed it.
        step: the last step of `RegNewton`, where that is the optimizer.
    """

    loss: Tensor
    params: Sequence[Tensor]
    gradient: Tensor
    H: LinearOperator
    damping: float
    settings: Settings
    read_jacobian: Callable[[], Rows | None]
    warn: Callable[[str], None]
    scaling: Tensor | None = None
    gram: Tensor | None = None
    step: Step | None = None

    @property
    def epsilon(self) -> float:
        """The unit of rounding of the arithmetic behind the derivatives."""
        return max(torch.finfo(self.gradient.dtype).eps, self.settings.rounding)

    @cached_property
    def finite(self) -> bool:
        """Whether the gradient is finite."""
        return bool(torch.isfinite(self.gradient).all())

    @cached_property
    def asymmetry(self) -> Asymmetry:
        """How far H is from symmetric: two products, and a third where they differ."""
        return asymmetry(self.H)

    @cached_property
    def symmetric(self) -> bool:
        """Whether H is symmetric to rounding; if not, it has no eigenvalues to speak of."""
        if not self.asymmetry.explained:
            self.warn(
                "the second derivative that autograd computes of this loss is not symmetric "
                f"(|H - H^T| is about {self.asymmetry.size:.1e}), and what depends on it is logged "
                "as NaN. Some backward passes have a wrong derivative: that of PyTorch's fused "
                "weight_norm, embeddings with scale_grad_by_freq, and functions of your own, which "
                "torch.autograd.gradgradcheck tests"
            )
        return self.asymmetry.explained

    @property
    def formed(self) -> bool:
        """Whether H is small enough to be formed."""
        return self.H.shape[0] <= self.settings.exact_up_to

    @cached_property
    def spectrum(self) -> Spectrum | None:
        """The spectrum of H; None where H is not finite."""
        return hessian_spectrum(
            self.H,
            self.epsilon,
            exact_up_to=self.settings.exact_up_to,
            products=self.settings.max_products,
            vectors=self.settings.eigenvectors,
            asymmetry=self.asymmetry.size,
        )

    @cached_property
    def trace(self) -> tuple[float, float] | None:
        """The trace of H and its standard error; None where H is not finite."""
        if not self.formed:
            return hessian_trace(self.H, None)
        return None if self.spectrum is None else hessian_trace(self.H, self.spectrum)

    @cached_property
    def jacobian(self) -> Rows | None:
        r"""J of the outputs, and :math:`Q^{1/2} J`, Q being the output Hessian.

        None where the loss shows no outputs. Where the damping is scaled, the latter is in the
        scaled variables.
        """
        J = self.read_jacobian()
        if J is None or self.scaling is None:
            return J
        return in_scaled_variables(J, self.scaling)

    @cached_property
    def weighted_kernel(self) -> KernelSpectrum:
        r"""The spectrum of :math:`Q^{1/2} J J^T Q^{1/2}`, Q being the output Hessian."""
        J = self.jacobian
        assert J is not None  # who asks for it names Need.JACOBIAN
        gram = self.gram if self.scaling is None else None  # it was formed without the scaling
        return kernel_spectrum(
            J.weighted,
            rank=J.rank,
            gram=gram,
            epsilon=self.epsilon,
            max_size=self.settings.max_rows,
            products=self.settings.max_products,
        )
