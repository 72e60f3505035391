"""What a damping rule is: the base classes to derive one from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from ..step import Step
from .context import Attempt, DampingContext

RETRYING = ("attempts", "accepts", "retry")
"""What a rule must have, all of it, for its steps to be put to a ratio test."""

ENOUGH = 1e-4
"""Share of the predicted reduction that a step must reach to be taken: the constant of Armijo's
condition (Nocedal and Wright 2006, *Numerical Optimization*, section 3.1). It refuses steps that
gain nothing and no others; how good a step was is for lambda to follow."""


class DampingRule(ABC):
    """A rule that gives the lambda with which to open each step; the step is then taken.

    Any callable ``(last_step, context) -> lambda`` serves as well. Deriving from this class gives
    a rule a type, and a place in `torch_newton.damping.RULES` gives it a name.

    >>> class Halving(DampingRule):
    ...     def __call__(self, last, context):
    ...         return 0.1 * context.curvature if last is None else last.damping / 2
    >>> Halving()(None, DampingContext(curvature=3.0, width=16, epsilon=2.0**-52))
    0.30000000000000004
    """

    @abstractmethod
    def __call__(self, last: Step | None, context: DampingContext) -> float:
        """The lambda to open a step with.

        Args:
            last: the last step that solved a system of the same kind; None before the first.
            context: what lambda is measured against.
        """


class RetryingRule(DampingRule):
    """A rule whose steps are put to a ratio test, and which is asked again where one fails it.

    Attributes:
        attempts: how many values of lambda a step may try.
    """

    attempts: int

    @abstractmethod
    def retry(self, damping: float, attempt: Attempt, context: DampingContext) -> float:
        """The lambda to try after `attempt`, made with `damping`, was refused."""

    def accepts(self, attempt: Attempt) -> bool:
        """Whether the loss fell by enough of what was predicted."""
        return attempt.ratio >= ENOUGH


AnyRule = DampingRule | Callable[[Step | None, DampingContext], float]
"""A rule, or a plain function that serves as one."""


def checked(rule: AnyRule) -> AnyRule:
    """The rule itself, if it is clear whether its steps should be put to a ratio test.

    A class of the user's own that has all of `RETRYING` counts as a `RetryingRule` without
    deriving from it.

    Raises:
        TypeError: it has some of `RETRYING` and lacks others. Taken for a fixed rule it would
            be asked once a step, solved with another solver, and never put to a test.
    """
    if isinstance(rule, DampingRule):
        return rule
    missing = [name for name in RETRYING if not hasattr(rule, name)]
    if missing and len(missing) < len(RETRYING):
        raise TypeError(
            f"the damping rule {type(rule).__name__} has "
            f"{' and '.join(name for name in RETRYING if name not in missing)} but not "
            f"{' and '.join(missing)}: derive it from torch_newton.damping.RetryingRule, or leave "
            "out all three for a rule without a ratio test"
        )
    if not missing:
        RetryingRule.register(type(rule))
    return rule
