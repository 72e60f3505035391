"""Work of which several processes do as many units, whatever happens in one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from .allowance import Allowance
from .outcomes import OutOfTimeError
from .work import Unit, Vote, Work

T = TypeVar("T")

WAITING = Unit("waiting")
"""What a process does that has ended its work, until the others have."""


class _Attempt(Generic[T]):
    """Some work, and how its last unit ended: in something next, a result, or an error."""

    result: T

    def __init__(self, work: Work[T]) -> None:
        self.next: Unit | Vote | None = None
        self.error: Exception | None = None
        self.go_on(work.__next__)

    def go_on(self, step: Callable[[], Unit | Vote]) -> None:
        self.next = None
        try:
            self.next = step()
        except StopIteration as end:
            self.result = end.value
        except Exception as error:
            self.error = error


def in_step(work: Work[T], allowance: Allowance) -> Work[T]:
    """The same work, which ends in all processes at once, in one way.

    Between two units the processes tell each other how the last one ended. Where something was
    raised in one, all end with an exception; one that has its result waits for the others.

    Raises:
        OutOfTimeError: in some process there was no time.
        Exception: what was raised in this process.
        ElsewhereError: something was raised in another one.
    """
    processes = allowance.processes
    if processes is None:
        return (yield from work)
    attempt = _Attempt(work)
    while True:
        at = attempt.next
        vote = at if isinstance(at, Vote) else None
        going, voting, against, must = processes.any(
            attempt.error,
            at is not None,
            vote is not None,
            vote is not None and not vote.ends,
            vote is not None and vote.must,
        )
        if vote is not None:
            answer = must or not against
            attempt.go_on(lambda answer=answer: work.send(answer))  # type: ignore[misc]
        elif not going:
            return attempt.result
        elif not voting:
            try:
                yield at if isinstance(at, Unit) else WAITING
            except OutOfTimeError as late:
                if at is not None:
                    attempt.go_on(lambda late=late: work.throw(late))  # type: ignore[misc]
            else:
                if at is not None:
                    attempt.go_on(work.__next__)
