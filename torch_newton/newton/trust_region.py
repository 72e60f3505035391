"""Solve, try and compare: one damping after another, until a step is accepted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from ..closure.capture import ClosureWarning
from ..closure.evaluator import Evaluator
from ..closure.surrogate import Surrogate
from ..curvature.base import Curvature
from ..damping import Attempt, DampingContext, RetryingRule
from ..linalg.flat import norm
from ..step import Step
from .checks import checked_damping
from .convergence import expected_reduction
from .options import Options
from .proposal import Proposal
from .quadratic_model import QuadraticModel

ROUNDING = 10.0
"""Units of rounding, eps |L|, within which two losses count as equal. Near a minimum the reduction
is smaller than that, and without the term every step would be refused or accepted by chance."""

TIGHTEST = 1e-8
"""Relative residual of a solve under a fixed damping, whose steps are meant to be exact."""

NOTABLE = 0.1
"""Predicted reduction, relative to the loss, that a loss without any change contradicts: 25 times
the resolution of bfloat16, the coarsest in which a loss is computed."""

FLAT = (
    "the loss is the same at every point that the step tried, although its gradient is not zero: "
    "is it divided by its own detached value, or normalised otherwise? A step is judged by the "
    "loss: minimise the loss itself, or its logarithm"
)

FLAT_ATTEMPTS = 2
"""Attempts without any change of the loss after which a step gives up. One may come back to the
same loss by chance, on the other side of a minimum; a second, of another length, does not."""

LOOSEST = 0.1
"""Relative residual of a solve far from the minimum, and the factor of the square root of the
gradient's size with which it tightens: superlinear convergence needs it to tend to zero
(Nocedal and Wright 2006, section 7.1), and a step far away gains nothing from digits."""

ENERGY = 0.03
"""The least relative error in the energy norm that iterations to a Gauss-Newton step are asked for:
of the model's reduction they leave its square, a thousandth, and the loss seldom falls as far.
Late on Burgers' equation 29 products lead as far as 39 do without it."""


@dataclass(frozen=True)
class TrustRegionSearch:
    """The search for a step that lowers the loss as its model says.

    Attributes:
        model: what a step minimises.
        curvature: the matrix of the model.
        evaluator: where the loss is evaluated.
        surrogate: the function of that loss which the step minimises.
        options: the damping rule, and how far a system is solved.
        lengths: the step in units of the solution, for all parameters or for each.
        resting: whether the last step was one of training that has come to rest. A step then
            tries one lambda and no correction: what it could gain is below the rounding of the
            loss, which refuses or accepts by chance.
    """

    model: QuadraticModel
    curvature: Curvature
    evaluator: Evaluator
    surrogate: Surrogate
    options: Options
    lengths: float | Tensor
    resting: bool = False

    def run(
        self, step: Step, context: DampingContext, last: Step | None, first_norm: float
    ) -> tuple[Step, Tensor | None]:
        """What was done, written into `step`, and by how much to move, where it was accepted.

        Args:
            step: what is known before the first attempt.
            context: what the damping is measured against.
            last: the last step of the same system.
            first_norm: the norm of the first gradient of all.
        """
        rule, retrying = self.options.damping, self.options.retrying
        tol = self._tolerance(first_norm)
        first = damping = checked_damping(rule(last, context))
        iterations, negative, lowest, flat = 0, False, math.inf, _Flat()
        attempts = 1 if retrying is None or self.resting else retrying.attempts
        for number in range(1, attempts + 1):
            proposal = self._solve(damping, tol)
            attempt, graph = self._try(number, damping, proposal, step.loss, context)
            if number == 1:
                expected = expected_reduction(self.model.gradient, attempt, self.lengths)
            accepted = _accepts(retrying, attempt)
            flat.look(attempt, step.loss, context.epsilon)
            hopeless = accepted or flat.unchanged > 0
            corrected = None if hopeless else self._correction(proposal, attempt, graph)
            graph = None  # frees its memory for the next evaluation
            if corrected is not None:
                again = self._again(attempt, corrected, step.loss, context)
                if _accepts(retrying, again):
                    accepted, attempt = True, again
            iterations, lowest = iterations + proposal.iterations, min(lowest, attempt.curvature)
            negative = negative or proposal.negative_curvature
            if accepted and attempt.direction is not None:
                break
            if retrying is not None:
                damping = checked_damping(retrying.retry(damping, attempt, context))
            if flat.unchanged >= FLAT_ATTEMPTS:
                damping = first  # a loss that stays as it is says nothing of lambda
                break
            # The next solve needs the memory of what was refused.
            proposal = replace(proposal, directions=[], inverse=None)
            attempt, corrected = replace(attempt, direction=None), None
        self._warn_if(flat, context.epsilon)
        moved = attempt.direction if accepted else None
        step = replace(
            step,
            loss_after=step.loss if moved is None else attempt.loss,
            damping=damping,  # where all were refused, what the last taught the next step
            ratio=attempt.ratio,
            accepted=accepted,
            corrected=accepted and attempt.corrected,
            attempts=number,
            cg_iterations=iterations,
            products=self.model.products,
            closure_calls=self.evaluator.calls,
            stop=proposal.stop,
            negative_curvature=negative,
            curvature_min=lowest,
            path=proposal.path,
            rank=proposal.rank,
            effective_dimension=proposal.effective_dimension,
            step_length=0.0 if moved is None else norm(moved),
            expected_reduction=expected,
        )
        return step, moved

    def _warn_if(self, flat: _Flat, epsilon: float) -> None:
        """Warn where no attempt changed the loss, and some one should have by far."""
        if flat.changed or flat.longest == 0:
            return
        # At a minimum a step of less than half the digits of the parameters is of rounding.
        if flat.longest > math.sqrt(epsilon) * norm(self.evaluator.snapshot.point.vector):
            self.evaluator.once("flat", FLAT, ClosureWarning)

    def _tolerance(self, first_norm: float) -> float:
        """The relative residual at which a solve ends."""
        if self.options.cg_tol is not None:
            return self.options.cg_tol
        if self.options.retrying is None:
            return max(TIGHTEST, 10 * self.model.epsilon)
        found = min(LOOSEST, LOOSEST * math.sqrt(self.model.gradient_norm / first_norm))
        return max(found, ENERGY) if self.model.by_energy else found

    def _solve(self, damping: float, tol: float) -> Proposal:
        model, max_iter = self.model, self.options.cg_max_iter
        if self.options.retrying is None:
            return model.exact_step(damping, tol, max_iter)
        if max_iter is None:
            inside, elsewhere = self.curvature.max_products
            max_iter = inside if model.from_gauss_newton else elsewhere
        return model.truncated_step(damping, tol, max_iter)

    def _try(
        self, number: int, damping: float, proposal: Proposal, loss: float, context: DampingContext
    ) -> tuple[Attempt, Tensor | None]:
        """Of the steps proposed the one of lowest loss, and that loss with its graph."""
        best = Attempt(
            number, False, proposal.curvature_min - damping, math.nan, math.nan,
            proposal.negative_curvature,
        )  # fmt: skip
        graph = None
        for solution, curvature in zip(proposal.directions, proposal.curvatures, strict=True):
            direction, along = self._stretched(solution, curvature)
            predicted = self.model.predicted_reduction(direction, along)
            value, found = self._loss_at(direction)
            if best.direction is None or value < best.loss or math.isnan(best.loss):
                ratio = _ratio(loss, predicted, value, context.epsilon)
                graph = found
                best = replace(
                    best, solved=True, predicted=predicted, ratio=ratio,
                    direction=direction, loss=value,
                )  # fmt: skip
        return best, graph

    def _stretched(self, d: Tensor, curvature: float) -> tuple[Tensor, float]:
        """A solution times `lr`, with its curvature."""
        if isinstance(self.lengths, Tensor):
            direction = self.lengths * d
            return direction, self.model.along(direction)
        return d if self.lengths == 1 else self.lengths * d, self.lengths**2 * curvature

    def _loss_at(self, direction: Tensor) -> tuple[float, Tensor | None]:
        value, graph = self.evaluator.loss_at(direction)
        return self.surrogate.loss(value, direction), graph

    def _correction(
        self, proposal: Proposal, attempt: Attempt, graph: Tensor | None
    ) -> Tensor | None:
        """A refused direction with its second-order correction, where that has a chance."""
        if self.options.retrying is None or not self.options.correction or self.resting:
            return None
        if attempt.direction is None or graph is None or not attempt.predicted > 0:
            return None
        corrected = self.model.corrected(proposal, attempt.direction, graph)
        if corrected is None or not isinstance(self.lengths, Tensor):
            return corrected
        # Groups of a shorter step get as much less of a correction, and one that stands still none.
        share = self.lengths / self.lengths.max()
        return attempt.direction + share * (corrected - attempt.direction)

    def _again(
        self, attempt: Attempt, corrected: Tensor, loss: float, context: DampingContext
    ) -> Attempt:
        """The attempt with the corrected direction in place of its own."""
        value, _ = self._loss_at(corrected)
        ratio = _ratio(loss, attempt.predicted, value, context.epsilon)
        return replace(attempt, direction=corrected, loss=value, ratio=ratio, corrected=True)


@dataclass
class _Flat:
    """Whether the attempts of a step change the loss.

    Attributes:
        changed: whether one did, by more than rounding.
        unchanged: how many did not, though predicted to by a notable part of it; zero once one did.
        longest: the length of the longest that was predicted to, by a notable part of it.
    """

    changed: bool = False
    unchanged: int = 0
    longest: float = 0.0

    def look(self, attempt: Attempt, loss: float, epsilon: float) -> None:
        """Take account of an attempt; its direction need not be kept for that."""
        equal = ROUNDING * epsilon * abs(loss)
        self.changed |= not abs(attempt.loss - loss) <= equal
        if self.changed or attempt.direction is None or equal == 0:
            self.unchanged = 0
        elif attempt.predicted > NOTABLE * abs(loss):
            self.unchanged += 1
            self.longest = max(self.longest, norm(attempt.direction))


def _accepts(retrying: RetryingRule | None, attempt: Attempt) -> bool:
    if retrying is None:
        return math.isfinite(attempt.loss)
    if attempt.predicted > 0 and retrying.accepts(attempt):
        return True
    if attempt.direction is None or attempt.predicted != 0:
        return False
    return not bool(attempt.direction.any())  # lr is zero


def _ratio(loss: float, predicted: float, value: float, epsilon: float) -> float:
    """Actual over predicted reduction, with a term for rounding; -1 for a loss not finite."""
    if math.isnan(predicted) or predicted == 0:
        return math.nan
    if not math.isfinite(value):
        return -1.0
    rounding = ROUNDING * epsilon * abs(loss)
    expected = predicted + rounding
    return (loss - value + rounding) / expected if expected != 0 else math.nan
