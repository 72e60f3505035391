"""Which candidate system a step solves: planned before the loss is known, chosen when it is."""

from __future__ import annotations

from collections.abc import Mapping

from ..closure.capture import ClosureError
from ..curvature.base import Curvature
from ..curvature.linearization import Linearization
from ..step import CandidateSystem
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
    """The system that has gained most for its cost, or one whose turn it is to be tried."""
    costs = {system: curvature.expected_cost for system, curvature in systems.items()}
    return memory.history.select(costs)


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
        if curvature in available and (at.space is not None or not system.scaled)
    }
    if not found:
        raise ClosureError(
            "scaling='jacobian' needs a loss whose rows can be read, and fewer of them or of "
            "the parameters than this one has: use scaling='auto' or None"
        )
    return found
