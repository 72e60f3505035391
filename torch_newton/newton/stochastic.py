r"""A step for closures that see another batch at each: along Kronecker factors, nothing solved.

With K a running mean of Kronecker-factored curvature (`preconditioners.kronecker`), the step is

.. math:: \delta_t = \tfrac12 \delta_{t-1} + \tfrac34 \alpha d,
          \qquad d = -(K + \lambda I)^{-1} g,
          \qquad \alpha = \frac{-g^T d}{d^T (J^T Q J + \lambda I)\,d},

where alpha minimises the damped Gauss-Newton model of this batch along d (Martens and Grosse 2015,
section 6.4). The batch's own gradient takes part in d, and K does not know the batch: only the
batch's own curvature says how far its samples allow to go. It takes one forward evaluation. So a
step costs a gradient and that, and at some steps a backward pass for K and two evaluations for the
ratio test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..autodiff.products import plain_gradient
from ..closure.accumulation import BackwardCalls
from ..closure.capture import ClosureError
from ..closure.distributed import RankError
from ..closure.evaluator import Evaluator
from ..closure.start import Start, start
from ..curvature.linearization import Linearization, linearize
from ..damping import DampingContext, width
from ..graph.outer_products import draw
from ..graph.output_change import OutputChange
from ..graph.random_root import OutputRoot, output_roots
from ..linalg.flat import norm
from ..preconditioners.kronecker import KroneckerFactored
from ..step import CandidateSystem, Path, Step
from ..warning import Once
from .batches import keep_step, last_step
from .contest import STEP_COST
from .curvature_along import CurvatureAlong
from .memory import Memory, SystemMemory
from .next_batch import left, met
from .observation import Observation
from .options import Options
from .outcome import Outcome
from .stochastic_search import StochasticSearch

EVERY_STEP, PERIOD = 10, 3
"""Steps at the beginning of which each updates the factors, and of later ones each third. Digits
with a convolutional network reach 4.7e-4 after 64 steps with an update at each, 5.7e-4 at each
third, 9.5e-4 at each fifth."""

FORWARD, BACKWARD_ONLY = 1 / 3, 1 / 3
"""Cost of a forward evaluation, and of a backward pass that stops at the operations, in gradients:
a matrix product of the forward pass has two in the backward pass, one of them for the weights."""


class NotFactoredError(ClosureError):
    """The loss has no Kronecker factors."""


@dataclass(frozen=True)
class StochasticIteration:
    """One step; its fields are those of `newton.iteration.Iteration`, and one more.

    Attributes:
        chosen: whether the step chose these steps by itself, and may choose others again.
    """

    evaluator: Evaluator
    options: Options
    memory: Memory
    state: MutableMapping[Tensor, dict[str, Any]]
    lengths: float | Tensor
    once: Once
    chosen: bool = False

    def run(self, backward_calls: BackwardCalls, observe: Callable[[Observation], None]) -> Outcome:
        """Take the step; the arguments are those of `Iteration.run`."""
        begin = start(self.evaluator, plain_gradient, backward_calls)
        if self.memory.steps == 0:
            self.evaluator.check_repeatable(begin.surrogate.start)
        begin.check_finite()
        if not self.chosen:
            return self._from(begin, backward_calls, observe)
        memory = met(self.memory, self.evaluator, begin, self.state)
        return replace(self, memory=memory).chosen_from(begin, backward_calls, observe)

    def chosen_from(
        self, begin: Start, backward_calls: BackwardCalls, observe: Callable[[Observation], None]
    ) -> Outcome:
        """A step that was chosen for its batch, whose verdict on the last one `memory` has."""
        outcome = self._from(begin, backward_calls, observe)
        move = last_step(self.state, self.evaluator.params)
        memory = left(outcome.memory, self.evaluator, begin, outcome.step, move, STEP_COST)
        return replace(outcome, memory=memory)

    def _from(
        self, begin: Start, backward_calls: BackwardCalls, observe: Callable[[Observation], None]
    ) -> Outcome:
        """The step from where it begins."""
        at = linearize(begin, self.evaluator, None, terms=True, twice=True, checked=False)
        roots = self._roots(at)
        calls = self.evaluator.calls
        K, passes = self._factors(at, roots)
        search = self._search(at, roots, K)
        step, move = search.run(self._opening(begin, search.context), self._last_step())
        forward = FORWARD * (self.evaluator.calls - calls)
        step = replace(step, gradients=1 + passes * BACKWARD_ONLY + forward)
        observe(Observation(begin.graph, self.evaluator.params, begin.left, None, None, None, step))
        self.evaluator.finish(move, begin.left, begin.filled)
        backward_calls.leave(self.evaluator.params)
        K.keep(self.state)
        keep_step(self.state, self.evaluator.params, move)
        returned = begin.returned
        if returned is None:
            returned = self.evaluator.signed(begin.graph.detach())
        return Outcome(returned, step, self._record(step, begin.loss, search.context), False)

    def _roots(self, at: Linearization) -> list[OutputRoot]:
        """The roots of the terms' second derivatives.

        Raises:
            NotFactoredError: some term of the loss has none.
        """
        (curvature,) = self.options.curvatures
        terms = [] if at.residuals is None else at.residuals.of_outputs
        roots = output_roots(terms) if at.recognised else None
        if roots is None:
            raise NotFactoredError(curvature.missing(at))
        return roots

    def _factors(self, at: Linearization, roots: list[OutputRoot]) -> tuple[KroneckerFactored, int]:
        """K, and how many backward passes were made for it."""
        params, ranks = self.evaluator.params, self.evaluator.ranks
        known = KroneckerFactored.kept(self.state, params)
        number = self.memory.steps
        if known.blocks and number >= EVERY_STEP and number % PERIOD:
            return known, 0
        assert at.residuals is not None
        drawn = draw(at.residuals.of_outputs, roots, params, number)
        # The ranks average block by block, and would wait for ever for one that has others.
        alike = ranks.agree(float(drawn.form), params[0]) == drawn.form
        if not ranks.everywhere(alike, params[0]):
            if known.blocks:
                return known, 1
            raise RankError(
                "the processes do not use the same parameters in the same way, and cannot average "
                "their Kronecker factors: use another curvature"
            )
        return known.updated(drawn, ranks.mean), 1

    def _search(
        self, at: Linearization, roots: list[OutputRoot], K: KroneckerFactored
    ) -> StochasticSearch:
        params, begin = self.evaluator.params, at.start
        assert at.residuals is not None
        change = OutputChange.at(at.residuals.of_outputs, roots)
        weight = begin.surrogate.weight
        along = None if change is None else CurvatureAlong(self.evaluator, change, weight)
        g, known = begin.gradient, self._known
        decay = begin.surrogate.decay
        Kg = weight * K.matvec(g)
        s = known.scale or _scale(Kg if decay is None else Kg + decay.diagonal * g, g)
        context = DampingContext(
            s,
            self.options.width or width(params),
            torch.finfo(params[0].dtype).eps,
            begin.loss,
            begin.loss if self.memory.first_loss is None else self.memory.first_loss,
        )
        return StochasticSearch(
            begin, self.evaluator, self.options, K, along, context, known.last, self.lengths
        )

    @property
    def _system(self) -> CandidateSystem:
        (curvature,) = self.options.curvatures
        return CandidateSystem(curvature.name)

    @property
    def _known(self) -> SystemMemory:
        """What is remembered; of nothing else, whose lambda says little of this one."""
        return self.memory.systems.get(self._system.name, SystemMemory())

    def _opening(self, begin: Start, context: DampingContext) -> Step:
        """The record of the step before the first attempt."""
        return Step.untried(
            iteration=self.memory.steps + 1,
            loss=begin.loss,
            gradient_norm=norm(begin.gradient),
            last=self._known.last,
            closure_calls=self.evaluator.calls,
            scale=context.curvature,
            width=context.width,
            path=Path.KRONECKER,
            system=self._system,
        )

    def _last_step(self) -> Tensor | None:
        """The move of the last step, where that was one like this."""
        last = self.memory.last_step
        if last is None or last.path is not Path.KRONECKER:
            return None
        return last_step(self.state, self.evaluator.params)

    def _record(self, step: Step, loss: float, context: DampingContext) -> Memory:
        """The memory after the step."""
        name, known = step.system.name, self._known
        if step.attempts > 0:
            known = SystemMemory(
                step, context.curvature, known.first_gradient_norm or step.gradient_norm
            )
        return replace(
            self.memory,
            steps=step.iteration,
            first_loss=loss if self.memory.first_loss is None else self.memory.first_loss,
            last_step=step,
            systems={**self.memory.systems, name: known},
            available=(name,),
        )


def _scale(Kg: Tensor, g: Tensor) -> float:
    """s = |K g| / |g|; 1 where that is zero or not finite."""
    s = norm(Kg) / (norm(g) or 1.0)
    return s if s > 0 and math.isfinite(s) else 1.0
