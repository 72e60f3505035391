"""What the last step of RegNewton did."""

from __future__ import annotations

from ..point import Point
from .base import Measured, Need, Quantity


class NewtonNumbers(Quantity):
    """Numbers of `RegNewton.last_step`; logged whether asked for or not, since they cost nothing.

    They are plain numbers of the step, so that nothing of the point is needed.
    """

    name = "newton"
    needs: frozenset[Need] = frozenset()
    documentation: tuple[tuple[str, str], ...] = (
        ("newton/damping", "lambda of RegNewton's last step, if that is the optimizer"),
        ("newton/cg_iterations", "iterations of its linear solver"),
        ("newton/ratio", "actual over predicted reduction of the loss"),
        ("newton/loss_after", "loss after it: that before, where it was refused"),
    )

    def compute(self, point: Point) -> Measured:
        """The numbers; none where no step has been taken by RegNewton."""
        step = point.step
        if step is None:
            return Measured({})
        return Measured(
            {
                "newton/damping": step.damping,
                "newton/cg_iterations": float(step.cg_iterations),
                "newton/ratio": step.ratio,
                "newton/loss_after": step.loss_after,
            }
        )
