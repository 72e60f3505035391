"""The test of the exact Hessian that a step makes where one is due."""

from __future__ import annotations

from ..autodiff.verification import Verdict, WrongHessianError
from ..curvature.linearization import Linearization
from ..warning import Once
from .verification import Verified, kind_of, no_potential, wrong


def tested(known: Verified, at: Linearization, once: Once) -> Verified:
    """The memory of the tests of the Hessian, after one where it is due.

    Args:
        known: of the tests so far.
        at: the point of the step.
        once: gives the warning that the gradient is that of no function.

    Raises:
        WrongHessianError: the Hessian is wrong.
    """
    graph = kind_of(at.start.graph)
    if known.due(graph):
        verdict = at.verdict()
        if verdict is Verdict.WRONG:
            raise WrongHessianError(wrong(at.start.graph))
        if verdict is Verdict.NO_POTENTIAL:
            once("no potential", no_potential(at.start.graph))
    return known.after(graph)
