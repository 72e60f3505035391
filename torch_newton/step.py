"""What one optimizer step did, in plain numbers."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any

from .linalg.solution import Stop


class Path(enum.Enum):
    """How the linear system of a step was solved."""

    PLAIN = "conjugate gradients"
    USER = "conjugate gradients, preconditioned by the callable given"
    FUNCTION_SPACE = "the Gauss-Newton step in function space, then conjugate gradients from it"
    INDEFINITE = "minimum residuals, because the matrix is indefinite"
    SAMPLED_ROWS = "conjugate gradients, preconditioned by a sample of the rows in function space"


class Arm(enum.Enum):
    """Which matrix a step solves with; each member's text says it as a formula."""

    GAUSS_NEWTON = "J^T Q J + lambda I"
    SCALED_GAUSS_NEWTON = "J^T Q J + lambda D"
    HESSIAN = "H + lambda I"
    SCALED_HESSIAN = "H + lambda D"

    @property
    def exact(self) -> bool:
        """Whether the curvature is the exact Hessian."""
        return self in (Arm.HESSIAN, Arm.SCALED_HESSIAN)

    @property
    def scaled(self) -> bool:
        """Whether the damping is scaled."""
        return self in (Arm.SCALED_GAUSS_NEWTON, Arm.SCALED_HESSIAN)

    @property
    def alike(self) -> Arm:
        """The arm with the same damping and the other curvature."""
        return next(arm for arm in Arm if arm.scaled == self.scaled and arm.exact != self.exact)


def mask_of(arms: Collection[Arm]) -> int:
    """A set of arms as one number: bit i is the i-th member."""
    return sum(1 << i for i, arm in enumerate(Arm) if arm in arms)


def arms_of(mask: int) -> frozenset[Arm]:
    """The inverse of `mask_of`."""
    return frozenset(arm for i, arm in enumerate(Arm) if int(mask) >> i & 1)


@dataclass(frozen=True)
class Step:
    """What one step of `RegNewton` did.

    The numbers are those of the last attempt of the step, the accepted one where there is one;
    `cg_iterations`, `products` and `closure_calls` are sums over all its attempts.

    Attributes:
        iteration: 1 for the first step.
        loss: L before the step.
        loss_after: L at the point tried last, on the same batch with the same random state.
        gradient_norm: |g|, Euclidean.
        damping: lambda; absolute in an unscaled arm, a pure number in a scaled one.
        ratio: actual over predicted reduction of L; NaN where the rule makes no ratio test.
        accepted: whether the parameters moved.
        corrected: whether they did by a step with a second-order correction; `ratio` then compares
            its loss with the reduction predicted for the uncorrected one.
        attempts: how many damping values were tried.
        cg_iterations: iterations of the linear solver.
        products: Hessian- or Gauss-Newton-vector products.
        closure_calls: evaluations of the closure.
        stop: why the linear solver stopped.
        negative_curvature: whether H + lambda I was seen not to be positive definite.
        curvature_min: smallest p^T H p / p^T p over the solver's directions, without lambda;
            an upper bound of the smallest eigenvalue of H. In a scaled arm p is in the scaled
            variables, and H is D^{-1/2} H D^{-1/2}.
        step_length: Euclidean length of the parameters' move, zero where it was refused.
        scale: s, the curvature scale that the damping is measured against, |Hg|/|g| in the arm's
            variables.
        width: n, the width that the damping is scaled by.
        path: how the linear system was solved and preconditioned.
        arm: which matrix it was solved with.
    """

    iteration: int
    loss: float
    loss_after: float
    gradient_norm: float
    damping: float
    ratio: float
    accepted: bool
    corrected: bool
    attempts: int
    cg_iterations: int
    products: int
    closure_calls: int
    stop: Stop
    negative_curvature: bool
    curvature_min: float
    step_length: float
    scale: float
    width: int
    path: Path
    arm: Arm

    @property
    def indefiniteness(self) -> float:
        """max(0, -curvature_min) / damping: above one, H + lambda I is indefinite."""
        excess = max(0.0, -self.curvature_min)
        if excess == 0.0:
            return 0.0
        return excess / self.damping if self.damping > 0 else float("inf")

    def numbers(self) -> dict[str, float | int | bool]:
        """The step as numbers alone, the form in which a checkpoint can hold it."""
        values = dict(vars(self))
        return values | {name: members.index(values[name]) for name, members in KINDS.items()}

    @classmethod
    def from_numbers(cls, numbers: dict[str, float | int | bool]) -> Step:
        """The inverse of `numbers`."""
        values: dict[str, Any] = {field.name: numbers[field.name] for field in fields(cls)}
        values |= {name: members[int(values[name])] for name, members in KINDS.items()}
        return cls(**values)


KINDS: dict[str, list[Any]] = {"stop": list(Stop), "path": list(Path), "arm": list(Arm)}
"""The fields of a step that are stored as the number of a member."""
