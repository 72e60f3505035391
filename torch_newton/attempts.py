"""Solve, try and compare: one damping after another, until a step is accepted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .damping import Attempt, Scale
from .model import Proposal, QuadraticModel
from .options import Options
from .step import Path, Step
from .trials import Trials

PRODUCTS = {(True, True): 3, (True, False): 10, (False, True): 50, (False, False): 50}
"""Products of a solve under an adaptive damping; keys: exact Hessian, in function space.

There conjugate gradients start at the Gauss-Newton step, and a few products are worth most.
"""


@dataclass(frozen=True)
class Attempts:
    """The search for a step that lowers the loss as its model says.

    Attributes:
        model: what a step minimises.
        trials: where the loss is evaluated.
        options: the damping rule, and how far a system is solved.
        lengths: the step in units of the solution, for all parameters or for each.
    """

    model: QuadraticModel
    trials: Trials
    options: Options
    lengths: float | Tensor

    def run(
        self, step: Step, scale: Scale, last: Step | None, first_norm: float
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
            iterations += proposal.solution.iterations
            direction, predicted, loss_after = self._best(proposal)
            attempt = Attempt(
                number,
                direction is not None,
                proposal.solution.curvature_min - damping,
                predicted,
                _ratio(step.loss, loss_after, predicted, scale.epsilon),
                proposal.negative_curvature,
            )
            if retrying is not None:
                standing = direction is not None and not bool(direction.any())  # lr is zero
                accepted = standing or (predicted > 0 and retrying.accepts(attempt))
            else:
                accepted = math.isfinite(loss_after)
            step = replace(
                step,
                loss_after=loss_after,
                damping=damping,
                ratio=attempt.ratio,
                accepted=accepted,
                attempts=number,
                cg_iterations=iterations,
                products=self.model.products,
                closure_calls=self.trials.calls,
                stop=proposal.solution.stop,
                negative_curvature=step.negative_curvature or proposal.negative_curvature,
                curvature_min=min(step.curvature_min, attempt.curvature),
                path=proposal.path,
            )
            if accepted and direction is not None:
                length = float(torch.linalg.vector_norm(direction))
                return replace(step, step_length=length), direction
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

    def _best(self, proposal: Proposal) -> tuple[Tensor | None, float, float]:
        """Of the steps proposed the one of lowest loss, the model's reduction, and the loss."""
        best: tuple[Tensor | None, float, float] = (None, math.nan, math.nan)
        for d, curved in proposal.candidates:
            direction = self.lengths * d
            if isinstance(self.lengths, Tensor):
                curved = self.model.curvature @ direction  # noqa: PLW2901
            else:
                curved = self.lengths * curved  # noqa: PLW2901
            predicted = self.model.predicted_reduction(direction, curved)
            loss = self.trials.loss_at(direction)
            if best[0] is None or loss < best[2] or math.isnan(best[2]):
                best = direction, predicted, loss
        return best


def _ratio(loss: float, loss_after: float, predicted: float, epsilon: float) -> float:
    """Actual over predicted reduction, with a term for rounding; -1 for a loss not finite."""
    if math.isnan(predicted) or predicted == 0:
        return math.nan
    if not math.isfinite(loss_after):
        return -1.0
    rounding = 10 * epsilon * abs(loss)
    expected = predicted + rounding
    return (loss - loss_after + rounding) / expected if expected != 0 else math.nan


def _checked(damping: float) -> float:
    damping = float(damping)
    if not (math.isfinite(damping) and damping >= 0):
        raise ValueError(f"the damping rule returned {damping}: it must be finite and >= 0")
    return damping
