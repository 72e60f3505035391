"""The quadratic model of the loss that one step minimises."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .cg import Solution, conjugate_gradient
from .function_space import FunctionSpace
from .least_squares import least_squares_step
from .operators import LinearOperator, congruent, damped, symmetric
from .preconditioners import AtDamping
from .scaling import Scaling
from .solve import solve_symmetric
from .step import Path, Stop

Candidate = tuple[Tensor, Tensor]
"""A direction d with A d."""


@dataclass(frozen=True)
class Proposal:
    """A solution d of (A + lambda I) d = -g.

    Attributes:
        candidates: d with A d, A without lambda; none where the first direction tried had no
            positive curvature, and two where the solver was stopped by negative curvature and
            has the Gauss-Newton step to offer beside its iterate.
        solution: what the solver said.
        negative_curvature: whether it saw that A + lambda I is not positive definite.
        path: how it was solved.
    """

    candidates: list[Candidate]
    solution: Solution
    negative_curvature: bool
    path: Path


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
        scaling: D; the identity where there is none. It takes a `space`.
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

        self.curvature = symmetric(
            len(gradient),
            counted,
            dtype=curvature.dtype,
            device=curvature.device,
            matmat=curvature.matmat,
        )
        # What is solved with: the same, or its like in the scaled variables.
        self._variables: Tensor | None = None
        self._g, self._A, self._space = gradient, self.curvature, space
        if scaling is not None and space is not None:
            self._variables = e = scaling.vector
            self._g, self._A = e * gradient, congruent(self.curvature, e)
            self._space = space.scaled(scaling)

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

    def predicted_reduction(self, direction: Tensor, curved: Tensor) -> float:
        """How much the model falls along d, given A d; the damping is no part of it."""
        return -float(self.gradient @ direction + 0.5 * (direction @ curved))

    def truncated_step(self, damping: float, tol: float, max_iter: int) -> Proposal:
        """A step that reduces the model, by conjugate gradients up to negative curvature.

        In function space they start at the Gauss-Newton step d, and solve for what it leaves:
        (A + lambda I) c = -g - (A + lambda I) d.
        """
        A = damped(self._A, damping)
        norm_g = float(torch.linalg.vector_norm(self._g))
        negative = Stop.NEGATIVE_CURVATURE
        if self._space is None:
            M = None if self._at_damping is None else self._at_damping(damping)
            solution = conjugate_gradient(
                A, -self._g, M, tol=tol, max_iter=max_iter, min_curvature=1e-3 * damping
            )
            found = [(solution.x, solution.Ax - damping * solution.x)]
            candidates = found if bool(solution.x.any()) else []
            return self._proposal(candidates, solution, solution.stop is negative, self.path)

        inverse = self._space.at(damping)
        first = inverse.step(self._g)
        curved = self._A @ first
        if self._exact_inverse:
            solved = Solution.direct(first, curved + damping * first)
            return self._proposal([(first, curved)], solved, False, self.path)
        residual = -self._g - curved - damping * first
        norm = float(torch.linalg.vector_norm(residual))
        solution = conjugate_gradient(
            A,
            residual,
            inverse.operator(),
            tol=min(1.0, tol * norm_g / norm) if norm > 0 else 1.0,
            max_iter=max_iter,
            min_curvature=1e-3 * damping,
        )
        candidates = [(first, curved)]
        if bool(solution.x.any()):
            better = (first + solution.x, curved + solution.Ax - damping * solution.x)
            # Where the curvature is negative the model cannot tell which of the two is better.
            candidates = [better, *candidates] if solution.stop is negative else [better]
        return self._proposal(candidates, solution, solution.stop is negative, self.path)

    def exact_step(self, damping: float, tol: float, max_iter: int | None) -> Proposal:
        """The solution to `tol`, a stationary point of the damped model also if indefinite."""
        if damping == 0 and self._exact_inverse and self._space is not None:
            d = least_squares_step(self._space, self._g)
            curved = self._A @ d
            return self._proposal([(d, curved)], Solution.direct(d, curved), False, self.path)
        if self._space is not None:
            M: LinearOperator | None = self._space.at(damping).operator() if damping > 0 else None
        else:
            M = None if self._at_damping is None else self._at_damping(damping)
        solution, indefinite = solve_symmetric(
            damped(self._A, damping), -self._g, M, tol=tol, max_iter=max_iter
        )
        found = [(solution.x, solution.Ax - damping * solution.x)]
        candidates = [] if solution.stop is Stop.NON_FINITE else found
        return self._proposal(
            candidates, solution, indefinite, Path.INDEFINITE if indefinite else self.path
        )

    def _proposal(
        self, candidates: list[Candidate], solution: Solution, negative: bool, path: Path
    ) -> Proposal:
        """The proposal in the parameters themselves."""
        if self._variables is not None:
            e = self._variables
            candidates = [(e * d, curved / e) for d, curved in candidates]
        return Proposal(candidates, solution, negative, path)
