"""What one optimizer step did, in plain numbers."""

from __future__ import annotations

import enum
import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

from .linalg.solution import Stop


class Path(enum.Enum):
    """How the linear system of a step was solved.

    `SAMPLED_ROWS` is found in checkpoints only, of steps that `LOW_RANK` would solve today.
    """

    PLAIN = "conjugate gradients"
    USER = "conjugate gradients, preconditioned by the callable given"
    FUNCTION_SPACE = "the Gauss-Newton step in function space, then conjugate gradients from it"
    INDEFINITE = "minimum residuals, because the matrix is indefinite"
    KRONECKER = "along Kronecker factors inverted, as far as the curvature of the batch allows"
    SAMPLED_ROWS = "conjugate gradients, preconditioned by a sample of the rows in function space"
    LOW_RANK = "conjugate gradients, preconditioned by a factor of low rank in function space"


class Convergence(enum.Enum):
    """By what sign training has come to rest (`newton.convergence` has the formulas)."""

    STATIONARY = "the gradient is zero"
    EXPECTED_REDUCTION = (
        "the loss is expected to fall by less than its rounding, at several steps in succession"
    )
    STALLED = "the loss has not fallen by more than its rounding over the last twenty steps"


@dataclass(frozen=True)
class CandidateSystem:
    """A matrix that a step may solve with: a curvature, plus lambda I or lambda D.

    >>> str(CandidateSystem("gauss_newton", scaled=True))
    'gauss_newton + lambda D'

    Attributes:
        curvature: the name of the curvature (`torch_newton.curvature`).
        scaled: whether the damping is lambda D, D like the diagonal of J^T Q J.
        exact: whether the curvature is the loss's own second derivative, so that the ratio of
            actual to predicted reduction tends to one as steps become short.
    """

    curvature: str
    scaled: bool = False
    exact: bool = False

    HESSIAN: ClassVar[CandidateSystem]
    GAUSS_NEWTON: ClassVar[CandidateSystem]
    SCALED_HESSIAN: ClassVar[CandidateSystem]
    SCALED_GAUSS_NEWTON: ClassVar[CandidateSystem]

    @property
    def name(self) -> str:
        """A name for tables and checkpoints, such as ``"scaled_hessian"``."""
        return f"scaled_{self.curvature}" if self.scaled else self.curvature

    def __str__(self) -> str:
        return f"{self.curvature} + lambda {'D' if self.scaled else 'I'}"


CandidateSystem.HESSIAN = CandidateSystem("hessian", exact=True)
CandidateSystem.GAUSS_NEWTON = CandidateSystem("gauss_newton")
CandidateSystem.SCALED_HESSIAN = CandidateSystem("hessian", scaled=True, exact=True)
CandidateSystem.SCALED_GAUSS_NEWTON = CandidateSystem("gauss_newton", scaled=True)


@dataclass(frozen=True)
class Step:
    """What one step of `RegNewton` did.

    The numbers are those of the last attempt of the step, the accepted one where there is one;
    `cg_iterations`, `products` and `closure_calls` are sums over all its attempts.

    Attributes:
        iteration: 1 for the first step.
        loss: L before the step; with the weight decay, where the optimizer has one, in this and
            in all that follows.
        loss_after: L after the step, on the same batch with the same random state: `loss` where
            the step was refused, NaN where a mini-batch step was taken untried.
        gradient_norm: |g|, Euclidean.
        damping: lambda; absolute where the damping is lambda I, a pure number where
            it is lambda D.
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
            an upper bound of the smallest eigenvalue of H. In a scaled system p is in the scaled
            variables, and H is D^{-1/2} H D^{-1/2}.
        step_length: Euclidean length of the parameters' move, zero where it was refused.
        scale: s, the curvature scale that the damping is measured against, |Hg|/|g| in the
            variables of the system.
        width: n, the width that the damping is scaled by.
        path: how the linear system was solved and preconditioned.
        system: which matrix it was solved with.
        rank: of the factor that preconditions a step on `Path.LOW_RANK`, zero for other steps.
        effective_dimension: tr K (K + lambda I)^{-1} of the tangent kernel K, from that factor:
            how many directions of function space the damping leaves free.
        jacobian: how the per-sample Jacobian was read, by the name in `graph.reading.Rung`;
            ``"NONE"`` where it was not.
        gradients: what the passes of a mini-batch step cost, in gradients; zero for any other,
            which is not counted so.
        unread: the parts of the loss that were not recognised and the parameters that the
            Jacobian leaves out, and what was in the way; and what does not fit in memory.
        expected_reduction: by how much L is expected to fall still, if it were its quadratic
            model without damping; infinite where the step gives no estimate.
        convergence: by what sign training has come to rest; None where it has not, and for
            mini-batch steps, of which none sees the whole loss.
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
    system: CandidateSystem
    jacobian: str = "NONE"
    unread: tuple[str, ...] = ()
    rank: int = 0
    effective_dimension: float = 0.0
    gradients: float = 0.0
    expected_reduction: float = math.inf
    convergence: Convergence | None = None

    @property
    def converged(self) -> bool:
        """Whether training has come to rest: further steps are not expected to lower the loss."""
        return self.convergence is not None

    def summary(self) -> dict[str, float]:
        """The loss after the step (before it, where that is unknown), lambda, the ratio and the
        length of the move: for ``bar.set_postfix(...)`` of tqdm, ``self.log_dict(...,
        prog_bar=True)`` of Lightning, or a row of ``csv.DictWriter``.
        """
        return {
            "loss": self.loss if math.isnan(self.loss_after) else self.loss_after,
            "damping": self.damping,
            "ratio": self.ratio,
            "length": self.step_length,
        }

    @classmethod
    def untried(
        cls,
        *,
        iteration: int,
        loss: float,
        gradient_norm: float,
        last: Step | None,
        closure_calls: int,
        scale: float,
        width: int,
        path: Path,
        system: CandidateSystem,
        products: int = 0,
        jacobian: str = "NONE",
        unread: tuple[str, ...] = (),
    ) -> Step:
        """The record as it stands before the first attempt, with the lambda of the last step of
        the same system.
        """
        return cls(
            iteration=iteration,
            loss=loss,
            loss_after=loss,
            gradient_norm=gradient_norm,
            damping=0.0 if last is None else last.damping,
            ratio=math.nan,
            accepted=False,
            corrected=False,
            attempts=0,
            cg_iterations=0,
            products=products,
            closure_calls=closure_calls,
            stop=Stop.STATIONARY,
            negative_curvature=False,
            curvature_min=math.inf,
            step_length=0.0,
            scale=scale,
            width=width,
            path=path,
            system=system,
            jacobian=jacobian,
            unread=unread,
        )

    @property
    def arm(self) -> CandidateSystem:
        """The name that `system` had in version 0.1."""
        warnings.warn("Step.arm is now Step.system", DeprecationWarning, stacklevel=2)
        return self.system

    @property
    def indefiniteness(self) -> float:
        """max(0, -curvature_min) / damping: above one, H + lambda I is indefinite."""
        excess = max(0.0, -self.curvature_min)
        if excess == 0.0:
            return 0.0
        return excess / self.damping if self.damping > 0 else float("inf")

    def numbers(self) -> dict[str, Any]:
        """The step as numbers in dictionaries, the form in which a checkpoint holds it."""
        values = dict(vars(self))
        return values | {
            "stop": as_key(self.stop.name),
            "path": as_key(self.path.name),
            "jacobian": as_key(self.jacobian),
            "unread": dict.fromkeys(self.unread, True),
            "convergence": {} if self.convergence is None else as_key(self.convergence.name),
            "system": vars(self.system) | {"curvature": as_key(self.system.curvature)},
        }

    @classmethod
    def from_numbers(cls, numbers: dict[str, Any]) -> Step:
        """The inverse of `numbers`."""
        system, rest = dict(numbers["system"]), numbers.get("convergence")
        return cls(
            **{
                **numbers,
                "stop": Stop[from_key(numbers["stop"])],
                "path": Path[from_key(numbers["path"])],
                "jacobian": from_key(numbers["jacobian"]),
                "unread": tuple(numbers["unread"]),
                "convergence": Convergence[from_key(rest)] if rest else None,
                "system": CandidateSystem(
                    **(system | {"curvature": from_key(system["curvature"])})
                ),
            }
        )


def as_key(name: str) -> dict[str, bool]:
    """A name as the only key of a dictionary.

    ``Optimizer.load_state_dict`` takes a string inside the state for a list of characters and
    destroys it; it leaves the keys of dictionaries alone.
    """
    return {name: True}


def from_key(entry: dict[str, bool]) -> str:
    """The inverse of `as_key`."""
    (name,) = entry
    return name
