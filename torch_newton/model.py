"""The quadratic model of the loss that one step minimises."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .cg import Solution, conjugate_gradient
from .operators import LinearOperator, damped, symmetric
from .preconditioners import AtDamping
from .solve import solve_symmetric
from .step import Path, Stop


@dataclass(frozen=True)
class Proposal:
    """A solution d of (A + lambda I) d = -g.

    Attributes:
        direction: d, or None where the first direction tried had no positive curvature.
        curved: A d, without lambda.
        solution: what the solver said.
        negative_curvature: whether it saw that A + lambda I is not positive definite.
        path: how it was solved.
    """

    direction: Tensor | None
    curved: Tensor
    solution: Solution
    negative_curvature: bool
    path: Path


class QuadraticModel:
    r"""The model :math:`L(\theta + d) \approx L + g^T d + d^T A d / 2` and its minimisers.

    A is the Hessian or the Gauss-Newton matrix; it counts the products taken with it.
    """

    def __init__(
        self, gradient: Tensor, curvature: LinearOperator, at_damping: AtDamping | None, path: Path
    ) -> None:
        self.gradient = gradient
        self.gradient_norm = float(torch.linalg.vector_norm(gradient))
        self.products = 0
        self.path = path
        self._at_damping = at_damping

        def counted(v: Tensor) -> Tensor:
            self.products += 1
            return curvature @ v

        self.curvature = symmetric(
            len(gradient), counted, dtype=curvature.dtype, device=curvature.device
        )

    def scale(self) -> float:
        """s = |A g| / |g|; 1 where that is zero or not finite."""
        s = float(torch.linalg.vector_norm(self.curvature @ self.gradient)) / self.gradient_norm
        return s if s > 0 and math.isfinite(s) else 1.0

    def predicted_reduction(self, direction: Tensor, curved: Tensor) -> float:
        """How much the model falls along d, given A d; the damping is no part of it."""
        return -float(self.gradient @ direction + 0.5 * (direction @ curved))

    def truncated_step(self, damping: float, tol: float, max_iter: int) -> Proposal:
        """A step that reduces the model, by conjugate gradients up to negative curvature."""
        solution = conjugate_gradient(
            damped(self.curvature, damping),
            -self.gradient,
            self._preconditioner(damping),
            tol=tol,
            max_iter=max_iter,
            min_curvature=1e-3 * damping,
        )
        moved = bool(solution.x.any())
        return self._proposal(
            solution, damping, solution.stop is Stop.NEGATIVE_CURVATURE, self.path, moved
        )

    def exact_step(self, damping: float, tol: float, max_iter: int | None) -> Proposal:
        """The solution to `tol`, a stationary point of the damped model also if indefinite."""
        solution, indefinite = solve_symmetric(
            damped(self.curvature, damping),
            -self.gradient,
            self._preconditioner(damping),
            tol=tol,
            max_iter=max_iter,
        )
        path = Path.INDEFINITE if indefinite else self.path
        moved = solution.stop is not Stop.NON_FINITE
        return self._proposal(solution, damping, indefinite, path, moved)

    def _preconditioner(self, damping: float) -> LinearOperator | None:
        return None if self._at_damping is None else self._at_damping(damping)

    @staticmethod
    def _proposal(
        solution: Solution, damping: float, negative: bool, path: Path, moved: bool
    ) -> Proposal:
        return Proposal(
            solution.x if moved else None,
            solution.Ax - damping * solution.x,
            solution,
            negative,
            path,
        )
