"""Work in units, which is taken up and put down between them.

A piece of work is a generator. It yields a `Unit` before each thing that takes long, and does that
thing when it is resumed; so who runs it decides, before anything is begun, whether there is time
for it now, later, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, TypeVar

from .allowance import Allowance, OutOfTimeError

T = TypeVar("T")


@dataclass(frozen=True)
class Unit:
    """What a piece of work does next.

    Attributes:
        cost: the name under which its time is noted and estimated.
        guess: seconds that it is reckoned to take where none is noted yet; a callable where that
            follows from the time of the unit before, which is noted only after this one is yielded.
        count: how many of what is noted it consists of.
    """

    cost: str
    guess: float | Callable[[], float] = 0.0
    count: float = 1.0


@dataclass(frozen=True)
class Vote:
    """Whether to end something that depends on the data, which all processes end together.

    The answer, which is sent into the work, is whether one must end it or all would.

    Attributes:
        ends: whether this process would.
        must: whether it has to.
    """

    ends: bool
    must: bool


Work = Generator[Unit | Vote, bool, T]
"""Yields a unit before each thing that takes long, and returns its result. `OutOfTimeError` is
thrown into it where there will be no time for a unit: it then ends with what it has."""


class Course(Generic[T]):
    """A piece of work in progress.

    Args:
        work: not begun.
        allowance: the time that it has, which learns what its units take.
        apart: whether this process does it apart from the others, as in the middle of a unit of
            theirs. The clock that they share stands still meanwhile, so each unit is reckoned to
            take what was estimated. Elsewhere the work must be in step (`in_step`).

    Attributes:
        done: whether it has ended.
        progressed: whether a unit was done since the last pause began.
    """

    result: T

    def __init__(self, work: Work[T], allowance: Allowance, *, apart: bool = False) -> None:
        self.done: bool = False
        self.progressed: bool = False
        self._work, self._allowance = work, allowance
        self._apart = apart
        self._begun = False
        self._next: Unit | None = None

    @property
    def needs(self) -> float:
        """Seconds that the next unit is reckoned to take; 0 where it is not known."""
        unit = self._next
        return 0.0 if unit is None else self._estimate(unit)

    def advance(self, *, last: bool = False) -> bool:
        """Do what fits in this pause.

        Args:
            last: whether no later pause will have more time than this one has, so that what does
                not fit is given up if nothing was done before it in this pause.

        Returns:
            Whether the work has ended.
        """
        self.progressed = False
        if not self._begun:
            self._begun = True
            self._resume()
        while not self.done:
            unit = self._next
            assert unit is not None  # as long as it has not ended
            cost, needed = self._reckoned(unit)
            if self._allowance.fits(needed):
                began = self._allowance.now()
                self._resume()
                self._allowance.costs.put(
                    unit.cost, (self._allowance.now() - began) / max(unit.count, 1.0)
                )
                if self._apart:
                    self._allowance.reckon(needed)
                self.progressed = True
            elif last and not self.progressed:
                self._allowance.costs.relax(cost)
                self._resume(OutOfTimeError(needed))
            else:
                return False
        return True

    def finish(self) -> T:
        """Do what fits in this pause, give up what does not, and return the result."""
        while not self.advance(last=True):
            pass
        return self.result

    def _reckoned(self, unit: Unit) -> tuple[str, float]:
        """The name of a unit's cost and what it is reckoned to take, in the first process."""
        if self._apart:
            return unit.cost, self._estimate(unit)
        return self._allowance.shared(lambda: (unit.cost, self._estimate(unit)))

    def _estimate(self, unit: Unit) -> float:
        guess = unit.guess() if callable(unit.guess) else unit.guess
        each = self._allowance.estimate(unit.cost, guess / max(unit.count, 1.0))
        return each * unit.count

    def _resume(self, error: OutOfTimeError | None = None) -> None:
        try:
            unit = next(self._work) if error is None else self._work.throw(error)
            while isinstance(unit, Vote):  # where no other process is asked
                unit = self._work.send(unit.ends)
            self._next = unit
        except StopIteration as end:
            self.done, self.result, self._next = True, end.value, None
        except BaseException:
            self.done, self._next = True, None
            raise


def run(work: Work[T], allowance: Allowance) -> T:
    """The result of some work in one pause, reduced to what there is time for.

    Raises:
        OutOfTimeError: there is none for the least that it must do.
    """
    return Course(work, allowance, apart=True).finish()
