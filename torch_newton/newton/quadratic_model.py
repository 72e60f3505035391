"""The quadratic model of the loss that one step minimises."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..curvature.base import Curvature
from ..curvature.linearization import Linearization
from ..linalg.change_of_variables import ChangeOfVariables
from ..linalg.conjugate_gradient import conjugate_gradient
from ..linalg.operators import LinearOperator, damped, symmetric
from ..linalg.solution import Solution, Stop
from ..linalg.solve import solve_or_eliminate, solve_symmetric
from ..preconditioners.base import AtDamping
from ..preconditioners.function_space import DampedInverse, FunctionSpace
from ..preconditioners.least_squares import least_squares_step
from ..preconditioners.scaling import Scaling
from ..step import Path

LIFTS = 6
"""Times that D is enlarged for one lambda: the excess of a step squared each time, so that 1e6 is
gone after two or three."""

LONGEST_CORRECTION = 0.75
"""Of a correction, in lengths of the step."""


@dataclass(frozen=True)
class Proposal:
    """A solution d of (A + lambda I) d = -g.

    Attributes:
        directions: d, P entries; none where the first direction tried had no positive curvature,
            and two where the solver was stopped by negative curvature and has the Gauss-Newton
            step to offer beside its iterate.
        curvatures: d^T A d of each, A without lambda.
        stop: why the solver stopped.
        iterations: what it took.
        curvature_min: smallest p^T A p / p^T p over the solver's directions p, with lambda;
            infinite where there was none.
        negative_curvature: whether it saw that A + lambda I is not positive definite.
        path: how it was solved.
        inverse: that of the Gauss-Newton matrix plus lambda I, where it was used.
    """

    directions: list[Tensor]
    curvatures: list[float]
    stop: Stop
    iterations: int
    curvature_min: float
    negative_curvature: bool
    path: Path
    inverse: DampedInverse | None = None


class QuadraticModel:
    r"""The model :math:`L(\theta + d) \approx L + g^T d + d^T A d / 2` and its minimisers.

    It counts the products taken with A. With a scaling D, its steps solve (A + lambda D) d = -g,
    in the variables :math:`\varphi = D^{1/2} \theta`, where that is
    :math:`(D^{-1/2} A D^{-1/2} + \lambda I)\,\varphi = -D^{-1/2} g`.

    Args:
        gradient: g, P entries.
        curvature: A, the Hessian or the Gauss-Newton matrix.
        at_damping: a preconditioner for each lambda, where the user gave one.
        space: the function space of the loss, where it could be read.
        exact_inverse: whether the damped inverse in `space` is that of A itself.
        scaling: D; the identity where there is none. It takes a `space`. Steps under an adaptive
            damping may enlarge it, and `scaling` is the present one.
        path: how the system is solved, where that does not follow from the above.
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
    ) -> None:
        self.gradient = gradient
        self.gradient_norm = float(torch.linalg.vector_norm(gradient))
        self.products = 0
        self._at_damping = at_damping
        self._exact_inverse = exact_inverse
        if space is not None:
            self.path = Path.FUNCTION_SPACE
        else:
            self.path = path or (Path.PLAIN if at_damping is None else Path.USER)

        def counted(v: Tensor) -> Tensor:
            self.products += 1
            return curvature @ v

        def counted_columns(V: Tensor) -> Tensor:
            self.products += V.shape[1]
            return curvature @ V

        # Without a faster way of its own each column is a product, and counted there.
        self.curvature = symmetric(
            len(gradient),
            counted,
            dtype=curvature.dtype,
            device=curvature.device,
            matmat=None if curvature.matmat is None else counted_columns,
        )
        self._unscaled = space
        self._rescale(scaling)

    def _rescale(self, scaling: Scaling | None) -> None:
        """Solve in the variables of a scaling, where the damping is a multiple of I."""
        self.scaling, space = scaling, self._unscaled
        self._variables, self._space = ChangeOfVariables(), space
        if scaling is not None and space is not None:
            self._variables = ChangeOfVariables(scaling.vector)
            self._space = space.scaled(scaling)
        self._g = self._variables.gradient(self.gradient)
        self._A = self._variables.curvature(self.curvature)

    @classmethod
    def of(cls, curvature: Curvature, at: Linearization, scaling: Scaling | None) -> QuadraticModel:
        """The model of a curvature at the point of a linearization."""
        closed = curvature.closed(at)
        return cls(
            at.start.gradient,
            curvature.operator(at),
            None if closed else at.at_damping,
            curvature.space(at),
            closed,
            scaling,
            None if at.sampled is None else Path.SAMPLED_ROWS,
        )

    def scale(self) -> float:
        """s = |A g| / |g| in the scaled variables; 1 where that is zero or not finite."""
        norm = torch.linalg.vector_norm
        s = float(norm(self._A @ self._g) / norm(self._g))
        return s if s > 0 and math.isfinite(s) else 1.0

    @property
    def kernel_extremes(self) -> Callable[[], tuple[float, float]] | None:
        """Computes the extreme eigenvalues of the tangent kernel, where its rows are in hand."""
        return None if self._space is None else self._space.extremes

    @property
    def underdetermined(self) -> bool:
        """Whether A is a Gauss-Newton matrix of no more rows than parameters."""
        return self._exact_inverse and self._space is not None and self._space.dual

    def predicted_reduction(self, direction: Tensor, curvature: float) -> float:
        """How much the model falls along d, given d^T A d; the damping is no part of it."""
        return -float(self.gradient @ direction) - 0.5 * curvature

    def corrected(self, proposal: Proposal, direction: Tensor, loss: Tensor) -> Tensor | None:
        r"""The direction d with a second-order correction; None where there is none.

        A step d leaves of the residuals r that :math:`e = r(\theta + d) - r - J d`, half their
        second derivative along d and what follows. The Gauss-Newton step for e takes it away
        but for the third order, with the factor at hand:

        .. math:: d - (J^T J + \lambda I)^{-1} J^T e.

        A correction longer than :math:`\tfrac34 |d|` is none: there the series does not
        converge (Transtrum and Sethna 2012, *Improvements to the Levenberg-Marquardt algorithm
        for nonlinear least-squares minimization*, whose geodesic acceleration takes the second
        derivative at the starting point).

        Args:
            proposal: what proposed d.
            direction: d, P entries.
            loss: with its graph, at the point plus d.
        """
        if proposal.inverse is None or self._space is None:
            return None
        target = self._space.target_at(loss)
        if target is None:
            return None
        d = self._variables.from_theta(direction)
        remainder = target - self._space.target - self._space.jacobian.matvec(d)
        correction = proposal.inverse.correction(remainder)
        norm = torch.linalg.vector_norm
        if not bool(norm(correction) <= LONGEST_CORRECTION * norm(d)):
            return None
        return direction + self._variables.to_theta(correction)

    def truncated_step(self, damping: float, tol: float, max_iter: int) -> Proposal:
        """A step that reduces the model, by conjugate gradients up to negative curvature.

        With a scaling no tensor moves much farther than its size: D is enlarged for those that
        would, and stays so.
        """
        proposal = self._truncated(damping, tol, max_iter)
        for _ in range(LIFTS):
            longer = None if self.scaling is None else self.scaling.limited(proposal.directions)
            if longer is None:
                break
            self._rescale(longer)
            proposal = self._truncated(damping, tol, max_iter)
        return proposal

    def _truncated(self, damping: float, tol: float, max_iter: int) -> Proposal:
        """The step with D as it is.

        In function space they start at the Gauss-Newton step d, and solve for what it leaves:
        (A + lambda I) c = -g - (A + lambda I) d.
        """
        if self._exact_inverse and self._space is not None:
            inverse = self._space.at(damping)
            self.products += 1
            return self._direct(*inverse.step(self._g), inverse)
        A = damped(self._A, damping)
        negative = Stop.NEGATIVE_CURVATURE
        if self._space is None:
            M = None if self._at_damping is None else self._at_damping(damping)
            solution = conjugate_gradient(
                A, -self._g, M, tol=tol, max_iter=max_iter, min_curvature=1e-3 * damping
            )
            found = [solution.x] if bool(solution.x.any()) else []
            curvatures = [_curvature(solution, damping)] if found else []
            return self._proposal(found, curvatures, solution, solution.stop is negative, self.path)

        inverse = self._space.at(damping)
        first, _ = inverse.step(self._g)
        curved = self._A @ first
        residual = -self._g - curved - damping * first
        norm, norm_g = (float(torch.linalg.vector_norm(v)) for v in (residual, self._g))
        solution = conjugate_gradient(
            A,
            residual,
            inverse.operator(),
            tol=min(1.0, tol * norm_g / norm) if norm > 0 else 1.0,
            max_iter=max_iter,
            min_curvature=1e-3 * damping,
        )
        found, curvatures = [first], [float(first @ curved)]
        if bool(solution.x.any()):
            x = first + solution.x
            curvature = float(x @ (curved + solution.Ax - damping * solution.x))
            # Where the curvature is negative the model cannot tell which of the two is better.
            others = 1 if solution.stop is negative else 0
            found, curvatures = [x, *found[:others]], [curvature, *curvatures[:others]]
        return self._proposal(
            found, curvatures, solution, solution.stop is negative, self.path, inverse
        )

    def exact_step(self, damping: float, tol: float, max_iter: int | None) -> Proposal:
        """The solution to `tol`, a stationary point of the damped model also if indefinite.

        Where `max_iter` is given the iterations end there; else elimination finds what they do
        not, if P is not too large.
        """
        if damping == 0 and self._exact_inverse and self._space is not None:
            d = least_squares_step(self._space, self._g)
            return self._direct(d, self._space.jacobian.matvec(d))
        if self._space is not None:
            M: LinearOperator | None = self._space.at(damping).operator() if damping > 0 else None
        else:
            M = None if self._at_damping is None else self._at_damping(damping)
        A, b = damped(self._A, damping), -self._g
        if max_iter is None:
            solution, indefinite = solve_or_eliminate(A, b, M, tol=tol)
        else:
            solution, indefinite = solve_symmetric(A, b, M, tol=tol, max_iter=max_iter)
        path = Path.INDEFINITE if indefinite else self.path
        if solution.stop is Stop.NON_FINITE:
            return self._proposal([], [], solution, indefinite, path)
        curvatures = [_curvature(solution, damping)]
        return self._proposal([solution.x], curvatures, solution, indefinite, path)

    def _proposal(
        self,
        directions: list[Tensor],
        curvatures: list[float],
        solution: Solution,
        negative: bool,
        path: Path,
        inverse: DampedInverse | None = None,
    ) -> Proposal:
        """The proposal in the parameters themselves."""
        return Proposal(
            [self._variables.to_theta(d) for d in directions],
            curvatures,
            solution.stop,
            solution.iterations,
            solution.curvature_min,
            negative,
            path,
            inverse,
        )

    def _direct(self, d: Tensor, image: Tensor, inverse: DampedInverse | None = None) -> Proposal:
        """A Gauss-Newton step, given J d, that a factorisation gave."""
        found, curvatures = [self._variables.to_theta(d)], [float(image @ image)]
        return Proposal(found, curvatures, Stop.CONVERGED, 0, math.inf, False, self.path, inverse)


def _curvature(solution: Solution, damping: float) -> float:
    """d^T A d of a solution d of (A + lambda I) d = -g."""
    return float(solution.x @ (solution.Ax - damping * solution.x))
