"""What pieces of a measurement took, and what the next one is reckoned to take."""

from __future__ import annotations

from collections import deque

KEPT = 5
"""Times of a piece of which the longest is its estimate. A mean would be exceeded by every second
piece; a shared machine is now and then several times slower for a moment, which is then expected
again for the next five pieces and no longer."""

LATE_KEPT = 50
"""Pieces of which the latest is reckoned with: those of some five pauses, after which a moment at
which the machine was busy has passed."""

RELAXED = 0.5
"""The part of an estimate that is left where it alone keeps a piece from being tried. Guesses are
upper bounds, three times what was seen on most networks, so that two such steps undo them."""


class Costs:
    """Seconds that pieces took, by their names.

    The first time of a piece counts only until there is a second: it includes the memory that is
    allocated and the kernels that are chosen, and was up to seven times the others.
    """

    def __init__(self) -> None:
        self._known: dict[str, deque[float]] = {}
        self._counts: dict[str, int] = {}
        self._relaxed: dict[str, float] = {}
        self._held: list[tuple[str, float]] | None = None
        self._lateness: deque[float] = deque(maxlen=LATE_KEPT)

    @property
    def late(self) -> float:
        """Seconds by which a piece of late took longer than the longest of its kind before."""
        return max(self._lateness, default=0.0)

    def of(self, name: str) -> float | None:
        """The longest of the last `KEPT` times, None where there is none."""
        known = self._known.get(name)
        return max(known) if known else None

    def last(self, name: str) -> float:
        """The last time, 0 where there is none."""
        known = self._known.get(name)
        return known[-1] if known else 0.0

    def put(self, name: str, seconds: float) -> None:
        """A piece took so many seconds: learnt at once, unless times are held."""
        if self._held is None:
            self.learn(name, seconds)
        else:
            self._held.append((name, seconds))

    def hold(self) -> None:
        """Keep times apart from now on, for several processes to `learn` those of the first."""
        self._held = [] if self._held is None else self._held

    def held(self) -> list[tuple[str, float]]:
        """The times that were put since this was last called."""
        held, self._held = self._held or [], []
        return held

    def learn(self, name: str, seconds: float) -> None:
        """Reckon with what a piece took from now on."""
        known = self._known.setdefault(name, deque(maxlen=KEPT))
        if known:
            self._lateness.append(max(0.0, seconds - max(known)))
        self._counts[name] = self._counts.get(name, 0) + 1
        if self._counts[name] == 2:
            known.clear()  # the first was a cold start
        known.append(seconds)
        self._relaxed.pop(name, None)

    def estimate(self, name: str, guess: float = 0.0) -> float:
        """What a piece is reckoned to take: as long as lately, or a guess where it is new."""
        known = self.of(name)
        return (guess if known is None else known) * self._relaxed.get(name, 1.0)

    def relax(self, name: str) -> None:
        """A piece was not tried because of its estimate: reckon with less the next time.

        Times that were taken are not undercut: the largest is forgotten in favour of the others,
        and only a cold start, or a guess, is made smaller.
        """
        known = self._known.get(name)
        if known is not None and len(known) > 1:
            known.remove(max(known))
        elif self._counts.get(name, 0) < 2:
            self._relaxed[name] = RELAXED * self._relaxed.get(name, 1.0)
