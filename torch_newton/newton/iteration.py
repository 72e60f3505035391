"""One step of regularized Newton's method."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..autodiff.finite_difference import gradient_alone
from ..autodiff.products import (
    check_twice_differentiable,
    differentiable_gradient,
    nodes_of,
    plain_gradient,
)
from ..closure.accumulation import BackwardCalls
from ..closure.evaluator import Evaluator
from ..closure.start import Start, refuse_counting, start
from ..curvature.base import Curvature
from ..curvature.linearization import Linearization, linearize
from ..damping import DampingContext, width
from ..preconditioners.scaling import Scaling
from ..step import CandidateSystem, Step
from ..warning import Once
from .batches import keep_step
from .convergence import Rest
from .exact_cost import cost_in_gradients
from .hessian_check import tested
from .memory import Memory, SystemMemory
from .next_batch import left, looked_at, met
from .next_factor import rows_to_propose
from .observation import Observation, observation
from .options import Options
from .outcome import Outcome
from .quadratic_model import QuadraticModel
from .selection import Systems, plan, possible, select
from .stochastic import StochasticIteration
from .trust_region import TrustRegionSearch
from .verification import Verified


@dataclass(frozen=True)
class Iteration:
    r"""One step: choose a system, evaluate, linearize, solve and compare, move.

    Attributes:
        evaluator: the closure as a function of the parameters.
        options: of the optimizer.
        memory: what the steps before left.
        state: of each parameter, where the scaling D is kept.
        lengths: the step in units of the solution, one number or P of them.
        twice: whether the graph is expected to be differentiable twice.
        once: gives warnings.
    """

    evaluator: Evaluator
    options: Options
    memory: Memory
    state: MutableMapping[Tensor, dict[str, Any]]
    lengths: float | Tensor
    twice: bool
    once: Once

    def run(self, backward_calls: BackwardCalls, observe: Callable[[Observation], None]) -> Outcome:
        """Take the step.

        Args:
            backward_calls: counts the backward passes before the step.
            observe: called with what the step knows, before the parameters move.
        """
        planned = plan(self.options, self.memory)
        begin = self._start(planned, backward_calls)
        for_batches = self.options.for_batches
        if for_batches is None:
            return self._from(begin, planned, backward_calls, observe)[0]
        memory = met(self.memory, self.evaluator, begin, self.state)
        if memory.batches.along_factors:
            known = memory, self.state, self.lengths, self.once
            other = StochasticIteration(self.evaluator, for_batches, *known, chosen=True)
            return other.chosen_from(begin, backward_calls, observe)
        outcome, move, cost = replace(self, memory=memory)._from(
            begin, planned, backward_calls, observe
        )
        keep_step(self.state, self.evaluator.params, move if memory.batches.vary else None)
        memory = left(outcome.memory, self.evaluator, begin, outcome.step, move, cost)
        return replace(outcome, memory=memory)

    def _from(
        self,
        begin: Start,
        planned: CandidateSystem,
        backward_calls: BackwardCalls,
        observe: Callable[[Observation], None],
    ) -> tuple[Outcome, Tensor | None, float]:
        """The step from where it begins, its move, and its cost in gradients."""
        at = self._linearize(begin)
        systems = possible(self.options, at)
        system = planned if planned in systems else select(self.memory, systems)
        verified = self.memory.verified
        # At rest nothing depends on the test, and it would wait for the next step.
        if system.exact and self.twice and self.options.hvp == "auto" and not self.memory.resting:
            verified = tested(verified, at, self.once)
        scaling = self._scaling(at) if system.scaled else None
        model = QuadraticModel.of(systems[system], at, scaling)
        step, direction, known, rest = self._search(system, systems[system], at, model)
        observe(observation(at, model, step))
        self.evaluator.finish(direction, begin.left, begin.filled)
        backward_calls.leave(self.evaluator.params)
        if model.scaling is not None:
            model.scaling.keep(self.state)
        memory = replace(
            self._record(step, known, rest, at, systems, verified),
            pivots=rows_to_propose(model, at),
        )
        outcome = Outcome(self._returned(begin), step, memory, model.underdetermined)
        if not memory.batches.changes and self.memory.steps > 0:
            return outcome, direction, 0.0
        return outcome, direction, cost_in_gradients(step, systems[step.system], at)

    def _start(self, planned: CandidateSystem, backward_calls: BackwardCalls) -> Start:
        """The first evaluation; the gradient has a graph where products will need it."""
        doubly = planned.exact and self.twice
        alone = plain_gradient if self.twice else gradient_alone
        begin = start(self.evaluator, differentiable_gradient if doubly else alone, backward_calls)
        known = self.memory.history.selections
        if doubly and not any(s.exact and s.name in known for s in self.options.systems):
            check_twice_differentiable(nodes_of(begin.graph), begin.derivatives)
        if self.memory.steps == 0:
            refuse_counting(begin.graph)
            self.evaluator.check_repeatable(begin.surrogate.start)
        begin.check_finite()
        return begin

    def _linearize(self, begin: Start) -> Linearization:
        return linearize(
            begin,
            self.evaluator,
            self.options.prepared,
            terms=not all(curvature.exact for curvature in self.options.curvatures),
            twice=self.twice,
            checked=self.twice and self.options.hvp == "auto",
            max_memory=self.options.max_memory,
            proposed=self.memory.pivots,
        )

    def _scaling(self, at: Linearization) -> Scaling | None:
        """D of the Jacobian at hand, not smaller than it has been."""
        rows = at.space or at.iterative
        if rows is None:
            return None
        earlier = Scaling.kept(self.state, self.evaluator.params)
        return Scaling.of(rows.jacobian, rows.shift).maximum(earlier)

    def _search(
        self,
        system: CandidateSystem,
        curvature: Curvature,
        at: Linearization,
        model: QuadraticModel,
    ) -> tuple[Step, Tensor | None, SystemMemory, Rest]:
        """What was done, the accepted direction, and what is remembered of system and rest."""
        known = self.memory.of(system)
        s = known.scale
        if s == 0.0 and model.gradient_norm > 0:
            s = model.scale()
        context = self._context(s, at.start.loss, model)
        step = self._opening(system, at, model, context, known.last)
        first_norm = known.first_gradient_norm or model.gradient_norm
        if model.gradient_norm == 0:
            step = replace(step, convergence=self.memory.rest.verdict(step))
            return step, None, SystemMemory(known.last, s, first_norm), self.memory.rest
        search = TrustRegionSearch(
            model,
            curvature,
            self.evaluator,
            at.start.surrogate,
            self.options,
            self.lengths,
            resting=self.memory.resting,
        )
        step, direction = search.run(step, context, known.last, first_norm)
        rest = self._rest(step)
        step = replace(step, convergence=rest.verdict(step))
        return step, direction, SystemMemory(step, s, first_norm), rest

    def _rest(self, step: Step) -> Rest:
        """What is remembered of steps that did not lower the loss, after this one."""
        moving = bool(torch.as_tensor(self.lengths).any())
        epsilon = torch.finfo(self.evaluator.params[0].dtype).eps
        return self.memory.rest_after(step, epsilon) if moving else self.memory.rest

    def _context(self, s: float, loss: float, model: QuadraticModel) -> DampingContext:
        """What the damping is measured against."""
        params, first = self.evaluator.params, self.memory.first_loss
        epsilon = torch.finfo(params[0].dtype).eps
        return DampingContext(
            s,
            self.options.width or width(params),
            epsilon,
            loss,
            loss if first is None else first,
            model.kernel_extremes,
            None if model.epsilon == epsilon else model.epsilon,
        )

    def _opening(
        self,
        system: CandidateSystem,
        at: Linearization,
        model: QuadraticModel,
        context: DampingContext,
        last: Step | None,
    ) -> Step:
        """The record of the step as it stands before the first attempt."""
        reading = at.reading
        return Step.untried(
            iteration=self.memory.steps + 1,
            loss=at.start.loss,
            gradient_norm=model.gradient_norm,
            last=last,
            closure_calls=self.evaluator.calls,
            scale=context.curvature,
            width=context.width,
            path=model.path,
            system=system,
            products=model.products,
            jacobian="NONE" if reading is None else reading.rung.name,
            unread=at.unread,
        )

    def _record(
        self,
        step: Step,
        known: SystemMemory,
        rest: Rest,
        at: Linearization,
        systems: Systems,
        verified: Verified,
    ) -> Memory:
        """The memory after the step."""
        history, curvature = self.memory.history, systems[step.system]
        if step.attempts > 0:
            # Evaluations made, 2 for the gradient and the Jacobian, and the products.
            calls = step.closure_calls - self.evaluator.tests
            cost = calls + 2.0 + curvature.product_cost(at) * step.products
            costs = {system: c.expected_cost for system, c in systems.items()}
            history = history.after(step, cost, costs)
        first = self.memory.first_loss
        return Memory(
            steps=step.iteration,
            first_loss=at.start.loss if first is None else first,
            last_step=step,
            systems={**self.memory.systems, step.system.name: known},
            available=tuple(system.name for system in systems),
            history=history,
            finite_difference=self.memory.finite_difference,
            verified=verified,
            batches=looked_at(self.memory.batches, at, self.memory.steps == 0),
            rest=rest,
        )

    def _returned(self, begin: Start) -> Any:
        if begin.returned is not None:
            return begin.returned
        return self.evaluator.signed(begin.graph.detach())
