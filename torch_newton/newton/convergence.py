r"""When training has come to rest, as far as the loss's own digits can tell.

A step d of the model :math:`g^T d + d^T B d / 2` is shortened by its damping. Along one eigenvector
of B, of eigenvalue mu, it goes the share :math:`\sigma = \mu / (\mu + \lambda)` of the way, and
:math:`\sigma = d^T B d / (-g^T d)`. So

.. math:: \Delta = \frac{1}{\sigma}\left(-g^T d - \tfrac12 d^T B d\right)

estimates by how much the model could still fall without its damping: from above along one
eigenvector, and less where flat directions hide behind steep ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ..damping import Attempt
from ..step import Convergence, Step

HALF_A_UNIT = 0.5
"""Units of rounding, eps |L|, which added to L leave it as it is."""

SETTLED = 3
"""Steps in succession that expect no more than that. On the benchmarks one such step was a false
alarm once, on NIST's Roszman1, where the next twenty lowered the loss by 40 times its noise; two
never were, in 1,200 alarms."""

UNCHANGED = 10.0
"""Units of rounding within which two losses count as equal: see `trust_region.ROUNDING`."""

STALLED = 20
"""Steps in which the loss has fallen by no more than that altogether: a further twenty of the same
kind would not lower it by more."""


def promises(others: Iterable[Step], loss: float, unit: float) -> bool:
    """Whether another candidate system has lately expected more of the loss than it has fallen.

    One with a large lambda expects little, whatever another could still gain. Delta may be twice
    what there was because of the damping, and twice that because of `lr` (`expected_reduction`): if
    all of it has been gained, the loss has fallen by a quarter of Delta at least.

    Args:
        others: the last step of each of the other systems.
        loss: as it is now.
        unit: of its rounding; a fall by few of them cannot be told from none.
    """
    return any(
        UNCHANGED * unit < step.expected_reduction < math.inf
        and step.loss - loss < step.expected_reduction / 4
        for step in others
    )


def expected_reduction(gradient: Tensor, attempt: Attempt, lengths: float | Tensor) -> float:
    """Delta of an attempt; infinite where the attempt says nothing of it.

    That is where the model has no minimum along d, and where `lr` is more than one or zero. For a
    shorter step the reduction is divided by `lr`, which it is at most proportional to.
    """
    shortest = float(lengths.min()) if isinstance(lengths, Tensor) else lengths
    d = attempt.direction
    if d is None or attempt.negative_curvature or not 0 < shortest <= 1:
        return math.inf
    if attempt.predicted == 0:  # it underflows
        return 0.0
    slope = -float(gradient @ d.to(gradient.dtype))
    curvature = 2 * (slope - attempt.predicted)
    if not (attempt.predicted > 0 and curvature > 0):
        return math.inf
    return attempt.predicted * slope / curvature / shortest


@dataclass(frozen=True)
class Rest:
    """What is remembered of the steps that did not lower the loss.

    Attributes:
        settled: steps in succession that expected to lower it by less than its rounding.
        idle: steps since it last fell by more than that.
        fallen: by how much it fell in these.
    """

    settled: int = 0
    idle: int = 0
    fallen: float = 0.0

    def after(self, step: Step, epsilon: float, others: Iterable[Step]) -> Rest:
        """The memory after a step that tried to move.

        Args:
            step: the step.
            epsilon: the unit of rounding of the loss.
            others: the last steps of the other candidate systems.
        """
        unit = epsilon * abs(step.loss)
        little = step.expected_reduction <= HALF_A_UNIT * unit
        arrived = little and not promises(others, step.loss_after, unit)
        settled = self.settled + 1 if arrived else 0
        fallen = self.fallen + step.loss - step.loss_after
        if fallen > UNCHANGED * unit:
            return Rest(settled)
        return Rest(settled, self.idle + 1, fallen)

    def verdict(self, step: Step) -> Convergence | None:
        """Whether the step is one of training that has come to rest, and by what sign."""
        if step.gradient_norm == 0:
            return Convergence.STATIONARY
        if self.settled >= SETTLED:
            return Convergence.EXPECTED_REDUCTION
        return Convergence.STALLED if self.idle >= STALLED else None

    def numbers(self) -> dict[str, Any]:
        """As numbers, the form in which a checkpoint holds it."""
        return asdict(self)

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, Any]) -> Rest:
        """The inverse of `numbers`."""
        return cls(**numbers)
