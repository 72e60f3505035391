"""What a user should know of a step and cannot see in the loss."""

from __future__ import annotations

from ..damping import WidthScaled
from ..linalg.solution import Stop
from ..step import Step
from .options import Options


def advice(step: Step, options: Options, underdetermined: bool) -> str | None:
    """The warning that a step calls for; None where there is nothing to say.

    A rule that puts steps to a ratio test needs none: it changes lambda by itself.
    """
    if options.retrying is not None:
        return None
    if not step.accepted and step.stop is not Stop.STATIONARY:
        return (
            f"the loss is not finite after a step with damping {step.damping:g}: the step "
            "was refused, and will be at every call; raise the damping or lower lr"
        )
    if step.negative_curvature and isinstance(options.damping, WidthScaled):
        return (
            f"H + lambda I is not positive definite at lambda = {step.damping:g}: lambda is "
            "below the norm of the Hessian's indefinite part; raise gamma or the width "
            "(it takes gamma > C RMS(residual) N^-(beta - exponent))"
        )
    if step.damping == 0 and step.attempts > 0 and underdetermined:
        return (
            "undamped Gauss-Newton is meant for fewer parameters than residuals, and here "
            "there are as many or more: the step fits the batch exactly to first order, "
            "however far that is; use damping='auto' or damping='kernel_min'"
        )
    return None


def unsolved(step: Step, options: Options) -> str | None:
    """The warning that a system calls for which was not solved as a fixed damping asks."""
    if options.retrying is not None or step.stop is not Stop.MAX_ITERATIONS:
        return None
    cure = "raise cg_max_iter or leave it out" if options.cg_max_iter else "use float64"
    return (
        f"the linear system of a step with damping {step.damping:g} was not solved to cg_tol "
        f"after {step.products} products, and the step was taken nevertheless: {cure}, or raise "
        "the damping"
    )
