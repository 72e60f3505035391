"""The table of quantities by name, and the documentation that it makes."""

from __future__ import annotations

from collections.abc import Iterable

from .alignment import TermAlignment
from .base import Quantity
from .critical import CriticalSharpness
from .effective_dimension import EffectiveDimension
from .exact_newton_kernel import ExactNewtonTangentKernel
from .gram_shares import GramShares
from .hessian import HessianNumbers
from .kernel_sample import KernelSample
from .kernels import NewtonTangentKernel, TangentKernel
from .newton import NewtonNumbers
from .precision import PrecisionNumbers
from .residuals import ResidualNumbers
from .sharpness import GradientSharpness, StepSharpness
from .trace import TraceNumbers

QUANTITIES: dict[str, Quantity] = {
    quantity.name: quantity
    for quantity in (
        HessianNumbers(),
        TraceNumbers(),
        TangentKernel(),
        NewtonTangentKernel(),
        ExactNewtonTangentKernel(),
        EffectiveDimension(),
        GradientSharpness(),
        StepSharpness(),
        CriticalSharpness(),
        ResidualNumbers(),
        TermAlignment(),
        GramShares(),
        KernelSample(),
        PrecisionNumbers(),
        NewtonNumbers(),
    )
}
"""Every quantity by the name under which CurvatureMonitor is asked for it. Add your own."""

BY_DEFAULT = (
    "hessian",
    "ntk",
    "nntk",
    "effective_dimension",
    "sharpness",
    "residuals",
    "alignment",
    "precision",
)
"""Those measured where the user names none: the spectra, and what costs little beside them."""


def documentation_table(quantities: Iterable[Quantity]) -> str:
    """The keys of some quantities and their meanings, as a table in reStructuredText."""
    rows = [
        (f"``{key}``", meaning)
        for quantity in quantities
        for key, meaning in quantity.documentation
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    rule = "  ".join("=" * width for width in widths)
    lines = [f"{key.ljust(widths[0])}  {meaning}" for key, meaning in rows]
    return "\n".join([rule, *lines, rule])
