"""What can end a piece of a measurement other than its result."""

from __future__ import annotations


class OutOfTimeError(RuntimeError):
    """What is to be computed takes more time than is left.

    Attributes:
        needed: seconds that its cheapest useful form takes.
    """

    def __init__(self, needed: float) -> None:
        super().__init__(f"this takes {needed:.3g} s, more than is left of what is allowed")
        self.needed = needed


class MovedError(RuntimeError):
    """A point cannot be returned to: the loss depends on what the training has changed since."""


class ElsewhereError(RuntimeError):
    """Another process failed at what all processes do together."""
