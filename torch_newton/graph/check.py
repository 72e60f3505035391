r"""Whether what was read off a graph is true: one combination of rows against autograd's.

For a random u the product :math:`\hat J^T u` of a wrong :math:`\hat J` is right with probability
zero, so one backward pass that knows nothing of samples and readers judges all columns at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .reading import Found, Request

NOTICEABLE = 1e-6
"""Share of the largest entry of u from which an entry says something of its row. What an error in
a row with a smaller one does to J^T u could pass for rounding: see `explains`, whose tolerance is
4e-10 in double precision and 7e-5 in single, where 1e-6 is some eight epsilon."""


def confirmed(found: Found) -> frozenset[int]:
    """The parameters that were read and whose columns are those of autograd."""
    request, params = found.request, found.request.params
    if not found.read:
        return found.read
    if request.known is not None and _is_telling(request.known[0], request):
        u, expected = request.known
        if explains(_misfit(found, u, expected), _restricted(found, expected)):
            return found.read
    u, expected = request.combination
    misfit = _misfit(found, u, expected)
    if explains(misfit, _restricted(found, expected)):
        return found.read
    sizes = [param.numel() for param in params]
    pairs = zip(torch.split(misfit, sizes), torch.split(expected, sizes), strict=True)
    return frozenset(i for i, pair in enumerate(pairs) if i in found.read and explains(*pair))


def explains(misfit: Tensor, expected: Tensor) -> bool:
    r"""Whether a misfit is rounding: at most :math:`\varepsilon^{0.6}` of what is expected.

    That is 600 epsilon in single and 2e6 epsilon in double precision: sums of thousands of
    products, and residuals with second derivatives in them, round to less, and a formula that is
    wrong misses by far more.
    """
    norm, tolerance = torch.linalg.vector_norm, torch.finfo(misfit.dtype).eps ** 0.6
    return bool(float(norm(misfit)) <= tolerance * float(norm(expected)))


def _misfit(found: Found, u: Tensor, expected: Tensor) -> Tensor:
    return _restricted(found, found.jacobian.rmatvec(u) - expected)


def _restricted(found: Found, vector: Tensor) -> Tensor:
    """P entries, with zeros for parameters that were not read."""
    params = found.request.params
    if len(found.read) == len(params):
        return vector
    pieces = torch.split(vector, [param.numel() for param in params])
    return torch.cat([p if i in found.read else torch.zeros_like(p) for i, p in enumerate(pieces)])


def _is_telling(u: Tensor, request: Request) -> bool:
    """Whether u has something to say of at least half of the rows of each term.

    Near a solution most residuals may be zero, and rows multiplied by zero can be anything.
    """
    large = u.abs()
    large = large > NOTICEABLE * large.amax()
    pieces = torch.split(large, request.sizes)
    return all(2 * int(piece.count_nonzero()) >= len(piece) for piece in pieces)
