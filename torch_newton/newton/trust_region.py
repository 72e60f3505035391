"""Solve, try and compare: one damping after another, until a step is accepted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..closure.evaluator import Evaluator
from ..damping.rules import Attempt, DampingContext, RetryingRule
from ..step import Path, Step
from .options import Options
from .quadratic_model import Proposal, QuadraticModel

PRODUCTS = {(True, True): 3, (True, False): 10, (False, True): 50, (False, False): 50}
"""Products of a solve under an adaptive damping; keys: exact Hessian, in function space.

There conjugate gradients start at the Gauss-Newton step, and a few products are worth most.
"""


@dataclass(frozen=True)
class Tried:
    """A step that was evaluated; none at all where nothing was proposed.

    Attributes:
        direction: by how much the parameters would move.
        predicted: reduction of the model along it.
        loss: at its end; NaN where it is not finite.
    """

    direction: Tensor | None = None
    predicted: float = math.nan
    loss: float = math.nan


@dataclass(frozen=True)
class TrustRegionSearch:
    """The search for a step that lowers the loss as its model says.

    Attributes:
        model: what a step minimises.
        trials: where the loss is evaluated.
        options: the damping rule, and how far a system is solved.
        lengths: the step in units of the solution, for all parameters or for each.
    """

    model: QuadraticModel
    trials: Evaluator
    options: Options
    lengths: float | Tensor

    def run(
        self, step: Step, scale: DampingContext, last: Step | None, first_norm: float
    ) -> tuple[Step, Tensor | None]:
        """What was done, written into `step`, and by how much to move, where it was accepted.

        Args:
            step: what is known before the first attempt.
            scale: what the damping is measured against.
            last: the last step of the same arm.
            first_norm: the norm of the first gradient of all.
        """
        rule, retrying = self.options.damping, self.options.retrying
        forcing = None
        if retrying is not None:
            forcing = min(0.1, 0.1 * math.sqrt(self.model.gradient_norm / first_norm))
        damping = _checked(rule(last, scale))
        iterations = 0
        for number in range(1, retrying.attempts + 1 if retrying is not None else 2):
            proposal = self._solve(damping, forcing, step.arm.exact)
            iterations += proposal.iterations
            tried, graph = self._best(proposal)
            attempt = Attempt(
                number,
                tried.direction is not None,
                proposal.curvature_min - damping,
                tried.predicted,
                _ratio(step.loss, tried, scale.epsilon),
                proposal.negative_curvature,
            )
            accepted = _accepts(retrying, attempt, tried)
            corrected = None
            if retrying is not None and not accepted:
                corrected = self._corrected(proposal, tried, graph)
            graph = None  # frees the memory for the next evaluation
            if corrected is not None:
                again = Tried(corrected, tried.predicted, self.trials.loss_at(corrected))
                second = replace(attempt, ratio=_ratio(step.loss, again, scale.epsilon))
                if _accepts(retrying, second, again):
                    accepted, attempt, tried = True, second, again
            step = replace(
                step,
                loss_after=tried.loss,
                damping=damping,
                ratio=attempt.ratio,
                accepted=accepted,
                corrected=accepted and tried.direction is corrected,
                attempts=number,
                cg_iterations=iterations,
                products=self.model.products,
                closure_calls=self.trials.calls,
                stop=proposal.stop,
                negative_curvature=step.negative_curvature or proposal.negative_curvature,
                curvature_min=min(step.curvature_min, attempt.curvature),
                path=proposal.path,
            )
            if accepted and tried.direction is not None:
                length = float(torch.linalg.vector_norm(tried.direction))
                return replace(step, step_length=length), tried.direction
            if retrying is not None:
                damping = _checked(retrying.retry(damping, attempt, scale))
        # What the last attempt taught is kept for the next step.
        return replace(step, damping=damping), None

    def _solve(self, damping: float, forcing: float | None, exact: bool) -> Proposal:
        model, tol, max_iter = self.model, self.options.cg_tol, self.options.cg_max_iter
        if forcing is None:
            tol = max(1e-8, 10 * torch.finfo(model.gradient.dtype).eps) if tol is None else tol
            return model.exact_step(damping, tol, max_iter)
        if max_iter is None:
            max_iter = PRODUCTS[exact, model.path is Path.FUNCTION_SPACE]
        return model.truncated_step(damping, forcing if tol is None else tol, max_iter)

    def _best(self, proposal: Proposal) -> tuple[Tried, Tensor | None]:
        """Of the steps proposed the one of lowest loss, and that loss with its graph."""
        best, graph = Tried(), None
        for d, curvature in proposal.candidates:
            direction = self.lengths * d
            if isinstance(self.lengths, Tensor):
                curvature = float(direction @ (self.model.curvature @ direction))  # noqa: PLW2901
            else:
                curvature = self.lengths**2 * curvature  # noqa: PLW2901
            predicted = self.model.predicted_reduction(direction, curvature)
            loss, found = self.trials.evaluate_at(direction)
            if best.direction is None or loss < best.loss or math.isnan(best.loss):
                best, graph = Tried(direction, predicted, loss), found
        return best, graph

    def _corrected(self, proposal: Proposal, tried: Tried, graph: Tensor | None) -> Tensor | None:
        """A refused step with its second-order correction, where that has a chance."""
        # With a length for each parameter it would mix groups, of which some may stand still.
        if not self.options.correction or isinstance(self.lengths, Tensor):
            return None
        if not (tried.predicted > 0 and math.isfinite(tried.loss)):
            return None
        if tried.direction is None or graph is None:
            return None
        return self.model.corrected(proposal, tried.direction, graph)


def _accepts(retrying: RetryingRule | None, attempt: Attempt, tried: Tried) -> bool:
    if retrying is None:
        return math.isfinite(tried.loss)
    if tried.predicted > 0 and retrying.accepts(attempt):
        return True
    if tried.direction is None or tried.predicted != 0:
        return False
    return not bool(tried.direction.any())  # lr is zero


def _ratio(loss: float, tried: Tried, epsilon: float) -> float:
    """Actual over predicted reduction, with a term for rounding; -1 for a loss not finite."""
    if math.isnan(tried.predicted) or tried.predicted == 0:
        return math.nan
    if not math.isfinite(tried.loss):
        return -1.0
    rounding = 10 * epsilon * abs(loss)
    expected = tried.predicted + rounding
    return (loss - tried.loss + rounding) / expected if expected != 0 else math.nan


def _checked(damping: float) -> float:
    damping = float(damping)
    if not (math.isfinite(damping) and damping >= 0):
        raise ValueError(f"the damping rule returned {damping}: it must be finite and >= 0")
    return damping
