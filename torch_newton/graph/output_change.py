r"""How far a move of the parameters moves the outputs, :math:`d^T J^T Q J d`, by differences.

The change of z along a short move, measured with the Q of the starting point, takes one forward
evaluation and no second derivative; a product with J by autograd takes two to three times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..autodiff.nodes import output_dtype, reachable
from .random_root import LOG_SOFTMAX, OutputRoot
from .residuals import read_residuals
from .terms import Term


@dataclass(frozen=True)
class OutputChange:
    """The outputs at one point, with which those at others are compared.

    Attributes:
        terms: of the loss at that point.
        roots: of their Q.
        values: of these roots.
        epsilon: rounding of the coarsest number that the outputs are computed with, which under
            autocast is not that of the parameters.
    """

    terms: Sequence[Term]
    roots: Sequence[OutputRoot]
    values: Sequence[Tensor]
    epsilon: float

    @classmethod
    def at(cls, terms: Sequence[Term], roots: Sequence[OutputRoot]) -> OutputChange | None:
        """Of the loss where `roots` was made; None where outputs cannot be read."""
        values = _values(terms, roots)
        return None if values is None else cls(terms, roots, values, _rounding(terms))

    def squared(self, loss: Tensor) -> float | None:
        r""":math:`\Delta z^T Q\,\Delta z` from here to the point of a loss.

        Args:
            loss: with its graph.

        Returns:
            None where the loss is made of other terms there.
        """
        terms = read_residuals(loss).of_outputs
        if [_kind(term) for term in terms] != [_kind(term) for term in self.terms]:
            return None
        values = _values(terms, self.roots)
        if values is None:
            return None
        pairs = zip(self.roots, values, self.values, strict=True)
        return sum(root.square(new - old) for root, new, old in pairs)


def _rounding(terms: Sequence[Term]) -> float:
    nodes = reachable([term.z.node for term in terms])
    dtypes = {output_dtype(node) for node in nodes} | {term.like.dtype for term in terms}
    return max(torch.finfo(d).eps for d in dtypes if d is not None and d.is_floating_point)


def _kind(term: Term) -> tuple[bool, tuple[int, ...]]:
    return term.value.node.name() == LOG_SOFTMAX, tuple(term.like.shape)


def _values(terms: Sequence[Term], roots: Sequence[OutputRoot]) -> list[Tensor] | None:
    found = [root.value(term) for term, root in zip(terms, roots, strict=True)]
    values = [value for value in found if value is not None]
    return values if len(values) == len(found) else None
