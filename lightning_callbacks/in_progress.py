"""A measurement that goes on from one pause of the training to another."""

from __future__ import annotations

from .allowance import Allowance
from .failures import Failures
from .measurement import Measurement, measuring
from .point import Point
from .quantities.base import Need, Quantity
from .work import Course


class InProgress:
    """A measurement that has begun, and may go on in later pauses of the training.

    Args:
        quantities: what is measured.
        allowance: the time that it has.
        found: gets the numbers.
        index: of the optimizer whose loss it is, -1 where there is one loss for all.
        prefix: of the keys, where several optimizers are told apart.

    Attributes:
        begun: the point, None before the loss was evaluated there.
        ended: whether nothing more will be measured at this point.
    """

    course: Course[Measurement]

    def __init__(
        self,
        quantities: list[Quantity],
        allowance: Allowance,
        found: Measurement,
        index: int = -1,
        prefix: str = "",
    ) -> None:
        self.quantities = quantities
        self.allowance = allowance
        self.found = found
        self.index = index
        self.prefix = prefix
        self.begun: Point | None = None
        self.ended = False
        self._handed: set[str] = set()

    def begin(self, point: Point | None, failures: Failures, first: set[str]) -> Point | None:
        """The loss has been evaluated at `point`, or None where that failed."""
        self.begun = point
        work = measuring(point, self.quantities, failures, first, self.found)
        self.course = Course(work, self.allowance)
        return point

    def knows(self, need: Need) -> bool:
        """Whether there are numbers of all quantities that need something, and of one at least."""
        keys = [key for q in self.quantities if need in q.needs for key in q.unknown()]
        return bool(keys) and self.found.numbers.keys() >= set(keys)

    def close(self) -> None:
        """Give up the point, and what was computed there."""
        if self.begun is not None:
            self.begun.close()
        self.begun = None
        vars(self).pop("course", None)  # which may hold vectors, where it was put down

    def finished(self) -> Measurement:
        """The numbers and spectra that were finished since this was last called."""
        new = {k: v for k, v in self.found.numbers.items() if k not in self._handed}
        spectra = {k: v for k, v in self.found.spectra.items() if k not in self._handed}
        self._handed |= new.keys() | spectra.keys()
        prefixed = Measurement(step=self.found.step)
        prefixed.add(Measurement(new, spectra), self.prefix)
        return prefixed
