"""The quadratic model of the loss that one step minimises."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..closure.weight_decay import WeightDecay
from ..curvature.base import Curvature
from ..curvature.linearization import Linearization
from ..linalg.change_of_variables import ChangeOfVariables
from ..linalg.conjugate_gradient import conjugate_gradient
from ..linalg.operators import LinearOperator, damped, in_dtype
from ..linalg.solution import Stop
from ..linalg.solve import solve_or_eliminate, solve_symmetric
from ..preconditioners.base import AtDamping
from ..preconditioners.correction import second_order_correction
from ..preconditioners.function_space import FunctionSpace
from ..preconditioners.least_squares import least_squares_step
from ..preconditioners.low_rank import LowRankSpace
from ..preconditioners.scaling import Scaling
from ..step import Path
from .completion import completed, iterated_gauss_newton
from .counting import Counter, counted
from .decayed import Decayed
from .precision import gradient_in
from .proposal import Inverse, Proposal, curvature_of, direct, proposed

LIFTS = 6
"""Times that D is enlarged for one lambda: the excess of a step squared each time, so that 1e6 is
gone after two or three."""


class QuadraticModel:
    r"""The model :math:`L(\theta + d) \approx L + g^T d + d^T A d / 2` and its minimisers.

    It counts the products taken with A. With a scaling D, its steps solve (A + lambda D) d = -g,
    in the variables :math:`\varphi = D^{1/2} \theta`, where that is
    :math:`(D^{-1/2} A D^{-1/2} + \lambda I)\,\varphi = -D^{-1/2} g`.

    Args:
        gradient: g, P entries, in the precision of the space where there is one.
        curvature: A, the Hessian or the Gauss-Newton matrix.
        at_damping: a preconditioner for each lambda, where the user gave one.
        space: the function space of the loss, where it could be read.
        exact_inverse: whether the damped inverse in `space` is that of A itself.
        scaling: D; the identity where there is none. It takes a `space` or `low_rank`. Steps under
            an adaptive damping may enlarge it, and `scaling` is the present one.
        path: how the system is solved, where that does not follow from the above.
        rounding: the unit of rounding in g, where that is not the one of its dtype.
        low_rank: the rows of the loss, where there are too many for a `space`.
        closed_rows: whether their J^T J is A.
        decay: W, a weight decay; its curvature is added to A, and `gradient` has its gradient.
        limited: whether a step with a scaling moves no tensor much farther than its size, where
            the rows are those of the loss.

    Attributes:
        epsilon: the unit of rounding in the system.
    """

    def __init__(
        self,
        gradient: Tensor,
        curvature: LinearOperator,
        at_damping: AtDamping | None = None,
        space: FunctionSpace | None = None,
        exact_inverse: bool = False,
        scaling: Scaling | None = None,
        path: Path | None = None,
        rounding: float = 0.0,
        low_rank: LowRankSpace | None = None,
        closed_rows: bool = True,
        limited: bool = True,
        decay: WeightDecay | None = None,
    ) -> None:
        self._exact_inverse, self._decay = exact_inverse, Decayed(decay)
        # Products through autograd have the parameters' precision, and then vectors have it too.
        self._dtype = gradient.dtype if exact_inverse else curvature.dtype
        self.epsilon: float = max(rounding, torch.finfo(self._dtype).eps)
        self.gradient: Tensor = gradient.to(self._dtype)
        self.gradient_norm: float = float(torch.linalg.vector_norm(self.gradient))
        self._counter = Counter()
        self._at_damping = at_damping
        # Rows of another matrix, such as an empirical Fisher, have their lengths from elsewhere.
        self._limited = limited and (low_rank is not None or bool(space and space.sums_up))
        self._closed_rows = closed_rows
        otherwise = path or (Path.PLAIN if at_damping is None else Path.USER)
        self.path: Path = Path.FUNCTION_SPACE if space is not None else otherwise

        self.curvature: LinearOperator = counted(curvature, self._counter)
        self._unscaled = gradient, space, low_rank
        self._rescale(scaling)

    def _rescale(self, scaling: Scaling | None) -> None:
        """Solve in the variables of a scaling, where the damping is a multiple of I."""
        self.scaling = scaling
        _, self._space, self._low_rank = self._unscaled
        self._variables = ChangeOfVariables(None if scaling is None else scaling.vector)
        if scaling is not None and self._space is not None:
            self._space = self._space.scaled(scaling)
        if scaling is not None and self._low_rank is not None:
            self._low_rank = self._low_rank.scaled(scaling)
        decayed = self._decay.curvature(self.curvature)
        self._A = self._variables.curvature(in_dtype(decayed, self._dtype))

    @property
    def _space_g(self) -> Tensor:
        """g in the scaled variables, in the precision of the space; the caller's to keep."""
        gradient, space, _ = self._unscaled
        if space and self._space and gradient is space.gradient:
            return self._space.gradient  # the same numbers, in the same memory
        return self._variables.gradient(gradient)

    @property
    def _g(self) -> Tensor:
        """The same in the precision of the products."""
        return self._space_g.to(self._dtype)

    @classmethod
    def of(cls, curvature: Curvature, at: Linearization, scaling: Scaling | None) -> QuadraticModel:
        """The model of a curvature at the point of a linearization."""
        closed = curvature.closed(at)
        space = curvature.space(at)
        gradient, rounding = gradient_in(space, at.start)
        return cls(
            gradient,
            curvature.operator(at),
            None if closed else at.at_damping,
            space,
            closed,
            scaling,
            None if at.low_rank is None else Path.LOW_RANK,
            rounding,
            at.iterative,
            curvature.iterative(at) is not None,
            # The rows of the last micro-batch leave other gradients to D alone, so that all steps
            # are long; limiting them left 2 to 6 times the loss after forty.
            limited=not at.start.surrogate.accumulated,
            decay=at.start.surrogate.decay,
        )

    @property
    def products(self) -> int:
        """Products taken with A so far."""
        return self._counter.products

    def scale(self) -> float:
        """s = |A g| / |g| in the scaled variables; 1 where that is zero or not finite."""
        decayed = self._decay.curvature(self.curvature)
        s = self._variables.stretching(in_dtype(decayed, self._dtype), self._g)
        return s if s > 0 and math.isfinite(s) else 1.0

    @property
    def pivots(self) -> tuple[int, ...]:
        """Rows for the next step's factor of low rank to choose from first."""
        return () if self._low_rank is None else self._low_rank.kept

    @property
    def kernel_extremes(self) -> Callable[[], tuple[float, float]] | None:
        """Computes the extreme eigenvalues of the tangent kernel, where its rows are in hand."""
        return None if self._space is None else self._space.extremes

    @property
    def by_energy(self) -> bool:
        """Whether truncated solves end by their error in the energy norm."""
        return self._space is None and self._low_rank is not None and self._closed_rows

    @property
    def from_gauss_newton(self) -> bool:
        """Whether truncated solves start at a Gauss-Newton step."""
        return self._space is not None or not (self._low_rank is None or self._closed_rows)

    @property
    def underdetermined(self) -> bool:
        """Whether A is a Gauss-Newton matrix of no more rows than parameters."""
        dual = self._space is not None and self._space.dual
        return self._exact_inverse and dual and self._decay.least == 0

    def predicted_reduction(self, direction: Tensor, curvature: float) -> float:
        """How much the model falls along d, given d^T A d; the damping is no part of it."""
        return -float(self.gradient @ direction) - 0.5 * curvature

    def along(self, direction: Tensor) -> float:
        """d^T A d, by a product with A."""
        d = direction.to(self.curvature.dtype)
        return float(d @ (self.curvature @ d)) + self._decay.along(d)

    def corrected(self, proposal: Proposal, direction: Tensor, loss: Tensor) -> Tensor | None:
        r"""The direction d with a second-order correction; None where there is none.

        A step d leaves of the residuals r that :math:`e = r(\theta + d) - r - J d`, half their
        second derivative along d and what follows. The Gauss-Newton step for e takes it away
        but for the third order, with the factor at hand:

        .. math:: d - (J^T J + \lambda I)^{-1} J^T e.

        A correction longer than :math:`\tfrac34 |d|` is none.

        Args:
            proposal: what proposed d.
            direction: d, P entries.
            loss: with its graph, at the point plus d.
        """
        rows = self._space or self._low_rank
        if proposal.inverse is None or rows is None:
            return None
        target = rows.target_at(loss)
        if target is None:
            return None
        d = self._variables.from_theta(direction).to(rows.dtype)
        correction = second_order_correction(proposal.inverse, d, target)
        if correction is None:
            return None
        return direction + self._variables.to_theta(correction).to(direction.dtype)

    def truncated_step(self, damping: float, tol: float, max_iter: int) -> Proposal:
        """A step that reduces the model, by conjugate gradients up to negative curvature.

        With a scaling no tensor moves much farther than its size: D is enlarged for those that
        would, and stays so.
        """
        proposal = self._truncated(damping, tol, max_iter)
        for _ in range(LIFTS):
            if self.scaling is None or not self._limited:
                break
            larger = self.scaling.limited(proposal.directions)
            if larger is None:
                break
            del proposal  # the next solve needs its memory
            earlier, before = self.scaling.vector, self._space
            self._rescale(larger)
            if self._space is not None and before is not None:
                # Divided in the precision of the system, which may be higher than that of D.
                ratio = larger.vector.to(before.dtype) / earlier.to(before.dtype)
                self._space.adopt(before, ratio)
            proposal = self._truncated(damping, tol, max_iter)
        return proposal

    def _truncated(self, damping: float, tol: float, max_iter: int) -> Proposal:
        """The step with D as it is.

        With the rows of the loss in hand they start at the Gauss-Newton step (`completion`).
        """
        inverse: Inverse
        if self._space is not None:
            inverse, exact = self._decay.inverse(self._space, damping, self.scaling)
            d, image = inverse.step(self._space_g)
            if self._exact_inverse and exact:
                self._counter.products += 1
                d = self._variables.to_theta(d)
                return direct(d, image, self.path, inverse, self._decay.along(d))
            first = d.to(self._dtype)
            del d, image
        elif self._low_rank is not None and not self._closed_rows:
            inverse = self._low_rank.at(damping + self._decay.mean)
            first = iterated_gauss_newton(inverse, self._g, tol, self._counter)
        else:
            return self._preconditioned_step(damped(self._A, damping), damping, tol, max_iter)
        M = inverse.operator(self._dtype)
        found, curvatures, solution = completed(first, self._A, self._g, M, damping, tol, max_iter)
        negative = solution.stop is Stop.NEGATIVE_CURVATURE
        return proposed(self._variables, found, curvatures, solution, negative, self.path, inverse)

    def _preconditioned_step(
        self, A: LinearOperator, damping: float, tol: float, max_iter: int
    ) -> Proposal:
        """Conjugate gradients from zero, with what preconditioner there is."""
        mean = damping + self._decay.mean
        rows = None if self._low_rank is None else self._low_rank.at(mean)
        M = rows.operator() if rows else self._at_damping and self._at_damping(mean)
        solution = conjugate_gradient(
            A,
            -self._g,
            M,
            tol=tol,
            max_iter=max_iter,
            min_curvature=1e-3 * damping,
            energy=rows is not None,
            overwrite_b=True,
        )
        found = [solution.x] if bool(solution.x.any()) else []
        curvatures = [curvature_of(solution, damping)] if found else []
        negative = solution.stop is Stop.NEGATIVE_CURVATURE
        return proposed(self._variables, found, curvatures, solution, negative, self.path, rows)

    def exact_step(self, damping: float, tol: float, max_iter: int | None) -> Proposal:
        """The solution to `tol`, a stationary point of the damped model also if indefinite.

        Where `max_iter` is given the iterations end there; else elimination finds what they do
        not, if P is not too large.
        """
        undamped, space = damping + self._decay.least == 0, self._space
        if undamped and self._decay.term is None and self._exact_inverse and space is not None:
            d = least_squares_step(space, self._space_g)
            return direct(self._variables.to_theta(d), space.jacobian.matvec(d), self.path)
        M = None
        if space is not None and not undamped:
            inverse, _ = self._decay.inverse(space, damping, self.scaling)
            M = inverse.operator(self._dtype)
        elif space is None and self._low_rank is not None:
            M = self._low_rank.operator(damping + self._decay.mean)
        elif space is None and self._at_damping is not None:
            M = self._at_damping(damping + self._decay.mean)
        A, b = damped(self._A, damping), -self._g
        if max_iter is None:
            solution, indefinite = solve_or_eliminate(A, b, M, tol=tol)
        else:
            solution, indefinite = solve_symmetric(A, b, M, tol=tol, max_iter=max_iter)
        path = Path.INDEFINITE if indefinite else self.path
        if solution.stop is Stop.NON_FINITE:
            return proposed(self._variables, [], [], solution, indefinite, path)
        curvatures = [curvature_of(solution, damping)]
        return proposed(self._variables, [solution.x], curvatures, solution, indefinite, path)
