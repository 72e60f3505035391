"""What a step of the optimizer knows, for those who watch it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..curvature.linearization import Linearization
from ..linalg.operators import LinearOperator
from ..preconditioners.function_space import FunctionSpace
from ..step import Step
from .quadratic_model import QuadraticModel


@dataclass(frozen=True)
class Observation:
    """A step that is decided, before the parameters move; valid within the observer's call.

    Attributes:
        loss: L with its graph, at the point where the step begins, on the step's batch.
        params: the P parameters.
        gradient: of L, P entries.
        curvature: the exact Hessian, P x P; None where the step used the Gauss-Newton matrix.
        space: the rows of the Gauss-Newton matrix and their Gram matrix, where the step read them.
        scaling: D^{-1/2}, P entries, where the step was damped by lambda D instead of lambda I.
        step: what the step did.
    """

    loss: Tensor
    params: Sequence[Tensor]
    gradient: Tensor
    curvature: LinearOperator | None
    space: FunctionSpace | None
    scaling: Tensor | None
    step: Step


Observer = Callable[[Observation], None]


def observation(at: Linearization, model: QuadraticModel, step: Step) -> Observation:
    """What a step with an exact system knows."""
    scaling = model.scaling
    return Observation(
        at.start.graph,
        at.evaluator.params,
        at.start.left,
        model.curvature if step.system.exact else None,
        at.space,
        None if scaling is None else scaling.vector,
        step,
    )
