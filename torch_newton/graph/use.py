"""One place where a parameter enters a graph, as a reader describes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .views import View

Rows = Callable[[Tensor], Tensor]

MAX_ENTRIES = 50_000_000
"""Entries up to which rows of J are formed where they cannot be held as factors: 400 MB in double
precision, as many as `preconditioners.held_rows` always allows a whole Jacobian."""


@dataclass(frozen=True)
class Pairs:
    """A use as sums of outer products, in each of a parameter's G matrices of a x b.

    Attributes:
        shape: (G, a, b).
        of: makes G x n x a and G x n x b of the cotangent, whose products add up to the derivative;
            or, of the numbers of some products, the vectors of these.
        number: n, of the cotangent.
    """

    shape: tuple[int, int, int]
    of: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]
    number: Callable[[Tensor], int]


@dataclass(frozen=True)
class Use:
    """One place where a parameter enters.

    Attributes:
        param: which one.
        output: what the operation returned.
        rows: makes n x a rows of the cotangent there, linearly.
        operand: n x b; None where the cotangent's rows, summed over those of one sample, are
            the derivative.
        cotangent_is_left: whether the derivative is a x b, rather than b x a.
        scale: a number that the derivative is multiplied by.
        index: n numbers, for a table of which each row of the cotangent is the derivative in the
            row of that number; None for anything else.
        number: rows of that table.
        pairs: for a use of which `rows` makes sums of outer products, the vectors of these.
    """

    param: int
    output: GradientEdge
    rows: Rows
    operand: Tensor | None
    cotangent_is_left: bool = True
    scale: float = 1.0
    index: Tensor | None = None
    number: int = 0
    pairs: Pairs | None = None


Reader = Callable[[Node, int, View], Use | None]
"""(node, which of its arguments is the parameter, how it sees it) -> the use; None if unknown."""


def matrix(cotangent: Tensor) -> Tensor:
    """All dimensions but the last one as rows."""
    return cotangent.reshape(-1, cotangent.shape[-1])
