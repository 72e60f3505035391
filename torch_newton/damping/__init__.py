"""Rules for the damping lambda of (H + lambda I) d = -g.

A rule is a callable ``rule(last, context) -> lambda`` of the last `Step` that solved a system,
None at first, and of the `DampingContext` that lambda is measured against. Rules hold no state:
the last step is their memory. A `RetryingRule` puts each step to a ratio test, and is asked again
where a step fails it. To add a rule, write one file beside these and one line in the table below,
or ``RULES["mine"] = Mine`` from outside.
"""

from .adaptive import Adaptive
from .base import DampingRule, RetryingRule
from .context import Attempt, DampingContext
from .fixed import Fixed
from .kernel_min import KernelMin
from .mini_batch import MiniBatch
from .residual_following import ResidualFollowing
from .table import RULES, damping_rule
from .width import width
from .width_scaled import WidthScaled

RULES.update(
    {
        "auto": Adaptive,
        "width": WidthScaled,
        "kernel_min": KernelMin,
        "residual": ResidualFollowing,
        "mini_batch": MiniBatch,
    }
)

__all__ = [
    "RULES",
    "Adaptive",
    "Attempt",
    "DampingContext",
    "DampingRule",
    "Fixed",
    "KernelMin",
    "MiniBatch",
    "ResidualFollowing",
    "RetryingRule",
    "WidthScaled",
    "damping_rule",
    "width",
]
