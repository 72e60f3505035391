"""Which candidate system a step solves: planned before the loss is known, chosen when it is."""

from __future__ import annotations

from collections.abc import Mapping

from ..closure.capture import ClosureError
from ..curvature.base import Curvature
from ..curvature.linearization import Linearization
from ..step import CandidateSystem, Path
from .memory import Memory
from .options import Options

Systems = Mapping[CandidateSystem, Curvature]


def plan(options: Options, memory: Memory) -> CandidateSystem:
    """The system that a step is expected to solve: it decides what the first gradient must be
    good for.
    """
    systems, known = options.systems, memory.available
    if known is not None:
        systems = {s: c for s, c in systems.items() if s.name in known} or systems
    return select(memory, systems)


def select(memory: Memory, systems: Systems) -> CandidateSystem:
    """The system that has gained most for its cost, or one whose turn it is to be tried.

    Where steps are solved iteratively, that with another matrix than the Gauss-Newton one takes the
    iterations of both. A trial then waits until it has been paid for: the loss has not fallen far
    yet when steps are slow and much is still to come. (On Burgers' equation at 10,456 points trials
    took half of the first 30 s.)
    """
    last = memory.last_step
    iterative = last is not None and last.path is Path.LOW_RANK
    costs = {system: _cost(curvature, iterative) for system, curvature in systems.items()}
    return memory.history.select(costs, to_come=not iterative)


def _cost(curvature: Curvature, iterative: bool) -> float:
    """What a first step is reckoned to cost, and twice that where two systems are iterated."""
    return curvature.expected_cost * (2.0 if iterative and curvature.exact else 1.0)


def possible(options: Options, at: Linearization) -> Systems:
    """The candidate systems that a loss can be solved with.

    Raises:
        ClosureError: there is none.
    """
    available = [curvature for curvature in options.curvatures if curvature.available(at)]
    if not available:
        raise ClosureError(options.curvatures[0].missing(at))
    found = {
        system: curvature
        for system, curvature in options.systems.items()
        if curvature in available
        and (at.space is not None or at.iterative is not None or not system.scaled)
    }
    if not found:
        raise ClosureError(
            "scaling='jacobian' needs a loss whose rows can be read, and held in memory: use "
            "scaling='auto' or None"
        )
    return found
