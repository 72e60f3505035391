"""Whether the rows of a Jacobian, held as factors, take too much memory to be read at all."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..graph.readers import find_uses
from ..graph.terms import Term
from ..graph.use import MAX_ENTRIES
from .cost import MAX_SIZE

VECTORS = 2
"""Vectors of P entries that factors may always take, however large P is. Chosen: a step holds five
besides, and reading, scaling and sampling take these rows about twice again."""

OUTPUTS = 4
"""Rows of a sample up to which factors may take whatever they take, where P is small enough for
J^T J. Operands are in the closure's graph already, and cotangents are as many as the graph has of
outputs, for each row of a sample: who has the memory for a graph of a million samples has it for
these factors. Chosen: for four outputs factors are some three times as large as the graph."""


def holdable(terms: Sequence[Term], params: Sequence[Tensor]) -> bool:
    r"""Whether the factors of R rows have at most `MAX_ENTRIES` or 2 P entries, by an estimate.

    A weight matrix of a x b that is used for n rows, K = n / M for each of M samples, takes
    :math:`R\,\min(K (a + b),\ a b)`, and the filters of a convolution R a b. Beyond that, as for
    5,000 outputs of a network of ten million parameters, iterations with products through autograd
    need less memory, and no more time where samples have several outputs, each of which is a row.
    Where P is at most `cost.MAX_SIZE` and samples have few outputs the factors are no larger than
    a few of the graph, and are held whatever their number.

    Args:
        terms: of the loss, R rows in all.
        params: the P parameters.
    """
    rows, size = sum(term.like.numel() for term in terms), sum(param.numel() for param in params)
    limit = max(MAX_ENTRIES, VECTORS * size)
    if rows * size <= limit:  # as rows in full
        return True
    samples = sum(_samples(term.like) for term in terms)
    if size <= MAX_SIZE and rows <= OUTPUTS * samples:
        return True
    entries = 0.0
    for use in find_uses([term.z.node for term in terms], params).uses:
        numel = params[use.param].numel()
        if use.operand is None:
            # A bias has the cotangents of the weight beside it; a filter has rows in full.
            formed = use.index is None and params[use.param].ndim > 1
            entries += rows * numel if formed else 0
            continue
        n, b = use.operand.shape
        entries += rows * min(max(1.0, n / samples) * (numel / max(b, 1) + b), float(numel))
    return entries <= limit


def _samples(z: Tensor) -> int:
    """How many samples the outputs z are of, if the last of several dimensions counts C outputs."""
    return max(1, z.numel() // (z.shape[-1] if z.ndim > 1 else 1))
