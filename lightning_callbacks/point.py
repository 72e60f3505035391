"""The point at which a loss's curvature is measured, and what can be known of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from torch_newton import KernelSpectrum, LinearOperator, Step, kernel_spectrum
from torch_newton.autodiff.verification import Asymmetry
from torch_newton.graph.residuals import Residuals, read_residuals
from torch_newton.kernels.rows import TooManyPassesError

from .allowance import Allowance, OutOfTimeError
from .bounded import Look, spectrum_work
from .displacement import Displacement
from .jacobian import Rows, in_scaled_variables
from .kernel_products import KernelProducts
from .kernels_within import kernel_of_products, renewed, seconds_to_read
from .products_bar import counted
from .second_order import Derivatives, Warn
from .settings import Settings
from .spectrum import Spectrum, hessian_spectrum
from .start import Start
from .symmetry import asymmetry_within, no_derivative, not_symmetric
from .work import run

OF_THE_GRAPH = ("_second", "residuals", "jacobian", "kernel_products", "_jacobian_if_affordable")
"""What of a point holds on to the graph of its loss."""


@dataclass(eq=False)
class Point:
    """A loss L, its derivatives, and what follows from them, each computed once if it is used.

    What follows is computed when it is asked for, in the pause of now; or before, by the units of
    `Preparation`, which may be spread over several. Between two pauses the graph is given up
    (`release`), and after them another takes its place (`adopt`).

    Attributes:
        loss: L, a scalar with its graph.
        params: the parameters, P entries in all.
        gradient: of L, P entries.
        read_hessian: returns the exact Hessian as products, and the unit of rounding of these
            where it exceeds that of the dtype.
        read_damping: returns lambda, absolute.
        settings: how closely to look.
        read_jacobian: returns the Jacobian of the outputs, None where there are none; takes the
            number of backward passes, one a row, by which it may be formed.
        read_kernel: returns the tangent kernels of the outputs as products, None likewise.
        warn: called where H is not symmetric.
        allowance: the time that measuring may take.
        scaling: D^{-1/2}, P entries, where the damping is lambda D instead of lambda I.
        gram: the smaller Gram matrix of the weighted Jacobian, where a step has formed it.
        step: the last step of `RegNewton`, where that is the optimizer.
        derivatives: what reads H, where that may have tried a product, and can give up a graph.
        read_wrong: returns what of the model has a backward pass that is no derivative.
        functions: how many kinds of functions of the model must be tested for that, which takes
            another evaluation where there are any.
        damping_by_product: whether `read_damping` takes a product with H.
        value: L as a number.
        without_hessian: whether what is done next, here and in later pauses, needs no H.
        evaluate: returns L at the parameters plus a vector of P entries; None where that cannot be.
        displacement: the last step of the optimizer; None before it, and where nobody asked.
        optimizers: those that train `params`.
        start: of Lanczos processes with H.
    """

    loss: Tensor
    params: Sequence[Tensor]
    gradient: Tensor
    read_hessian: Callable[[], tuple[LinearOperator, float]]
    read_damping: Callable[[], float]
    settings: Settings
    read_jacobian: Callable[[float], Rows | None]
    read_kernel: Callable[[], KernelProducts | None]
    warn: Warn
    allowance: Allowance = field(default_factory=Allowance)
    scaling: Tensor | None = None
    gram: Tensor | None = None
    step: Step | None = None
    derivatives: Derivatives | None = None
    read_wrong: Callable[[], Sequence[str]] = tuple
    functions: int = 0
    damping_by_product: bool = False
    evaluate: Callable[[Tensor], float] | None = None
    displacement: Displacement | None = None
    optimizers: Sequence[torch.optim.Optimizer] = ()
    start: Start = field(default_factory=Start)

    def __post_init__(self) -> None:
        self.value: float = float(self.loss.detach())
        self.without_hessian: bool = False

    @cached_property
    def gradient_product(self) -> Tensor:
        """H g, P entries."""
        return self.H @ self.gradient

    @cached_property
    def residuals(self) -> Residuals:
        """The terms of the loss, as far as its graph shows them."""
        return read_residuals(self.loss)

    @cached_property
    def _second(self) -> tuple[LinearOperator, float]:
        H, rounding = self.read_hessian()
        return (counted(H, self.allowance.tick) if self.allowance.unlimited else H), rounding

    @cached_property
    def H(self) -> LinearOperator:  # noqa: N802 - the name that everybody uses
        """The exact Hessian, P x P, as products."""
        return renewed(lambda: self._second[0], self._second[0])

    def drop_hessian(self) -> None:
        """Give up the graph of the gradient, with which H is made again if it is asked for."""
        vars(self).pop("_second", None)
        if self.derivatives is not None:
            self.derivatives.release_second()

    @cached_property
    def first_product(self) -> Tensor:
        """H times `start`, known in later pauses, too, until the spectrum takes it."""
        return self.start.product(self.H, self.derivatives)

    @cached_property
    def damping(self) -> float:
        """Lambda, absolute."""
        return self.read_damping()

    @property
    def products(self) -> int:
        """Lanczos steps at most."""
        return self.settings.max_products

    @property
    def hessian_epsilon(self) -> float:
        """The unit of rounding of the arithmetic behind the products with H."""
        return max(self.epsilon, self._second_rounding)

    @cached_property
    def _second_rounding(self) -> float:
        return self._second[1]

    @property
    def epsilon(self) -> float:
        """The unit of rounding of the arithmetic behind the derivatives."""
        return max(torch.finfo(self.params[0].dtype).eps, self.settings.rounding)

    @cached_property
    def finite(self) -> bool:
        """Whether the gradient is finite."""
        return bool(torch.isfinite(self.gradient).all())

    @cached_property
    def asymmetry(self) -> Asymmetry:
        """How far H is from symmetric, as far as there is time to look."""
        return asymmetry_within(self.H, self.gradient, self.allowance, lambda: self.first_product)

    @cached_property
    def wrong(self) -> Sequence[str]:
        """What of the model has a backward pass that is no derivative."""
        return self.read_wrong()

    @cached_property
    def is_gradient(self) -> bool:
        """Whether the gradient is one: elsewhere there is no function of which H is the Hessian."""
        if self.wrong:
            self.warn(no_derivative(self.wrong), "wrong backward pass")
        return not self.wrong

    @cached_property
    def symmetric(self) -> bool:
        """Whether H is symmetric to rounding; if not, it has no eigenvalues to speak of."""
        if not self.is_gradient:
            return False
        if not self.asymmetry.explained:
            self.warn(not_symmetric(self.asymmetry.size), "asymmetry")  # whatever its size
        return self.asymmetry.explained

    @property
    def formed(self) -> bool:
        """Whether H is small enough to be formed."""
        return self.H.shape[0] <= self.settings.exact_up_to

    @cached_property
    def spectrum(self) -> Spectrum | None:
        """The spectrum of H; None where H is not finite."""
        settings = self.settings
        if self.allowance.unlimited:
            return hessian_spectrum(
                self._second[0],
                self.hessian_epsilon,
                exact_up_to=settings.exact_up_to,
                products=settings.max_products,
                vectors=settings.eigenvectors,
                asymmetry=self.asymmetry.size,
            )
        first = self.start.handed_over(self.H, vars(self), "first_product")
        return run(spectrum_work(self.H, self.look, self.allowance, first), self.allowance)

    @property
    def look(self) -> Look:
        """How closely to look at H."""
        settings = self.settings
        return Look(
            self.hessian_epsilon,
            settings.exact_up_to,
            settings.max_products,
            settings.eigenvectors,
            self.asymmetry.size,
        )

    @cached_property
    def jacobian(self) -> Rows | None:
        r"""J of the outputs, and :math:`Q^{1/2} J`, Q being the output Hessian.

        None where the loss shows no outputs. Where the damping is scaled, the latter is in the
        scaled variables.
        """
        J = self.read_jacobian(self._passes())
        return J if J is None or self.scaling is None else in_scaled_variables(J, self.scaling)

    def _passes(self) -> float:
        """Backward passes by which the Jacobian may be formed.

        Raises:
            OutOfTimeError: there is no time to read it at all.
        """
        allowance = self.allowance
        if allowance.unlimited or self.gram is not None:  # a step has read it
            return math.inf
        K = self.kernel_products
        if K is None:
            return math.inf  # there is nothing to read, and reading will say so
        whole = allowance.estimate("reading", seconds_to_read(K, allowance))
        if not allowance.affords(whole):
            allowance.reduced = True
            raise OutOfTimeError(whole)
        return allowance.left() / max(allowance.estimate("gradient"), 1e-9)

    @cached_property
    def kernel_products(self) -> KernelProducts | None:
        """The tangent kernels as products; None where the loss shows no outputs."""
        return self.read_kernel()

    @cached_property
    def kernel(self) -> KernelSpectrum | None:
        """The spectrum of J J^T; None where the loss shows no outputs."""
        J = self._jacobian_if_affordable
        if J is None:
            return self._by_products(weighted=False)
        if J.scale is not None:
            weighted = self.weighted_kernel
            return None if weighted is None else weighted.scaled(J.scale**-2)
        return kernel_spectrum(
            J.plain,
            epsilon=self.epsilon,
            max_size=self.settings.max_rows,
            products=self.settings.max_products,
        )

    @cached_property
    def weighted_kernel(self) -> KernelSpectrum | None:
        r"""The spectrum of :math:`Q^{1/2} J J^T Q^{1/2}`, Q being the output Hessian.

        None where the loss shows no outputs.
        """
        J = self._jacobian_if_affordable
        if J is None:
            K = self.kernel_products
            if K is not None and K.scale is not None and self.scaling is None:
                kernel = self.kernel
                return None if kernel is None else kernel.scaled(K.scale**2)
            return self._by_products(weighted=True)
        gram = self.gram if self.scaling is None else None  # it was formed without the scaling
        return kernel_spectrum(
            J.weighted,
            rank=J.rank,
            gram=gram,
            epsilon=self.epsilon,
            max_size=self.settings.max_rows,
            products=self.settings.max_products,
        )

    def _by_products(self, *, weighted: bool) -> KernelSpectrum | None:
        work = kernel_of_products(lambda: self.kernel_products, self, weighted=weighted)
        return run(work, self.allowance)

    def release(self) -> None:
        """Give up the graph and all that hangs on it; what is known stays."""
        for name in OF_THE_GRAPH:
            vars(self).pop(name, None)
        del self.loss, self.read_hessian, self.read_jacobian, self.read_kernel, self.evaluate
        self.read_wrong, self.derivatives = tuple, None

    def adopt(self, other: Point) -> None:
        """Go on with the graph of another point, of the same loss at the same place."""
        self.loss = other.loss
        self.read_hessian, self.read_jacobian = other.read_hessian, other.read_jacobian
        self.read_kernel, self.evaluate = other.read_kernel, other.evaluate
        self.read_wrong, self.derivatives = other.read_wrong, other.derivatives
        other.close()
        if self.without_hessian:
            self.drop_hessian()

    def close(self) -> None:
        """Give up everything: what is read later refers to the point, and holds it in a cycle.

        Its tensors would be freed when the garbage collector runs, which counts objects, not bytes.
        """
        vars(self).clear()

    @cached_property
    def _jacobian_if_affordable(self) -> Rows | None:
        """J, None where there is no time to read it or the loss shows no outputs."""
        try:
            return self.jacobian
        except (OutOfTimeError, TooManyPassesError):
            self.allowance.reduced = True
            return None
