r"""The Jacobian of a loss's terms, read off their graph by one backward pass for each output.

Sample m has the random weight :math:`\rho_m` in that pass. Divided by it, the cotangent at an
operation that uses a weight matrix is the cotangent of that sample alone, if its rows belong to
single samples; that they do, and that everything else was read rightly, is checked on one
combination of all rows which autograd computes independently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..autodiff.products import jacobian_at
from ..linalg.factored_jacobian import Factor, FactoredJacobian
from ..linalg.flat import flatten, unflatten
from .assembly import Part, joined, stack
from .fallback import MAX_COLUMNWISE, columns_by_autograd
from .loss_curvature import OutputHessianRoot
from .placement import Blocks, Placement, fits_blocks, placement
from .readers import Rows, Use, find_uses
from .residuals import Term

MAX_COLUMNS = 32
"""Outputs per sample up to which a term is read: each takes a backward pass."""

Cotangents = dict[GradientEdge, Tensor | None]


def read_jacobian(
    terms: Sequence[Term],
    params: Sequence[Tensor],
    roots: Sequence[OutputHessianRoot],
    known: tuple[Tensor, Tensor] | None = None,
) -> FactoredJacobian | None:
    r"""The scaled Jacobian of the terms' z; None where the graph holds what is not known.

    Parameters of few entries that are used in other ways than `READERS` lists are
    differentiated column by column.

    Args:
        terms: parts of a loss.
        params: the P parameters.
        roots: the square root of each term's Q.
        known: u and :math:`\hat J^T u`, where autograd has already computed that for a u that
            says something about most rows; it then serves as the check.
    """
    if any(root.columns > MAX_COLUMNS for root in roots):
        return None
    found = find_uses([term.z.node for term in terms], params)
    if known is not None and not _is_telling(known[0], terms):
        known = None
    for search in (False, True):
        jacobian = _read(terms, params, roots, found.uses, found.unread, search)
        if jacobian is None:
            return None
        if known is not None and _explains(jacobian, *known):
            return jacobian
        if _agrees(jacobian, terms, params, roots):
            return jacobian
    return None


def _is_telling(u: Tensor, terms: Sequence[Term]) -> bool:
    large = u.abs()
    large = large > 1e-6 * large.amax()
    pieces = torch.split(large, [term.like.numel() for term in terms])
    return all(2 * int(piece.count_nonzero()) >= len(piece) for piece in pieces)


def _explains(jacobian: FactoredJacobian, u: Tensor, expected: Tensor) -> bool:
    norm = torch.linalg.vector_norm
    misfit, tolerance = jacobian.rmatvec(u) - expected, torch.finfo(u.dtype).eps ** 0.6
    return bool(float(norm(misfit)) <= tolerance * float(norm(expected)))


def _agrees(
    jacobian: FactoredJacobian,
    terms: Sequence[Term],
    params: Sequence[Tensor],
    roots: Sequence[OutputHessianRoot],
) -> bool:
    """Whether one random combination of rows is what autograd says."""
    generator = torch.Generator().manual_seed(0)
    like = [term.like for term in terms]
    u = torch.randn(jacobian.rows, generator=generator, dtype=torch.float64).to(like[0])
    pieces = [root.apply(piece) for root, piece in zip(roots, unflatten(u, like), strict=True)]
    expected = jacobian_at([term.z for term in terms], like, params).T @ flatten(pieces)
    return _explains(jacobian, u, expected)


def _read(
    terms: Sequence[Term],
    params: Sequence[Tensor],
    roots: Sequence[OutputHessianRoot],
    uses: Sequence[Use],
    unread: set[int],
    search: bool,
) -> FactoredJacobian | None:
    """Read all terms; with `search`, look for the sample of each row instead of guessing it."""
    unread = set(unread)
    while True:
        uses = [use for use in uses if use.param not in unread]
        if not uses or sum(params[i].numel() for i in unread) > MAX_COLUMNWISE:
            return None
        try:
            parts = [
                _read_term(term, root, params, uses, search)
                for term, root in zip(terms, roots, strict=True)
            ]
        except _UnreadableError as error:
            unread.add(error.param)
        else:
            break
    if unread:
        columns = columns_by_autograd(terms, params, roots, sorted(unread))
        if columns is None:
            return None
        for part, column in zip(parts, columns, strict=True):
            part.update(column)
    return stack(parts, params, [term.like.numel() for term in terms])


class _UnreadableError(Exception):
    """The rows of a parameter's operand do not belong to single samples."""

    def __init__(self, param: int) -> None:
        super().__init__(param)
        self.param = param


def _read_term(
    term: Term, root: OutputHessianRoot, params: Sequence[Tensor], uses: Sequence[Use], search: bool
) -> Part:
    samples, columns = root.rows, root.columns
    edges = list(dict.fromkeys(use.output for use in uses))
    rho = _weights(samples, term.like.dtype, term.like.device)

    def cotangents(weights: Tensor) -> Cotangents:
        found = torch.autograd.grad(
            [term.z],
            edges,
            [weights.reshape(term.like.shape)],
            retain_graph=True,
            allow_unused=True,
        )
        return dict(zip(edges, found, strict=True))

    finder = _Finder(rho, columns, cotangents, search)
    if search and (mixed := next(filter(finder.mixes, uses), None)) is not None:
        raise _UnreadableError(mixed.param)
    passes = [cotangents(rho * root.row(c)) for c in range(columns)]
    lefts: dict[tuple[GradientEdge, Rows], tuple[Placement, Tensor]] = {}
    pieces: dict[int, list[Factor]] = {}
    for use in uses:
        if passes[0][use.output] is None:  # this term does not come this way
            continue
        key = use.output, use.rows
        if key not in lefts:
            rows = [use.rows(found) for p in passes if (found := p[use.output]) is not None]
            place = finder.place(use, rows[0])
            if place is None:
                raise _UnreadableError(use.param)
            gathered = [place.gather(r) / rho[:, :, None] for r in rows]
            left = gathered[0] if columns == 1 else torch.stack(gathered, 1).flatten(0, 1)
            lefts[key] = place, left
        place, left = lefts[key]
        factor = _factor(use, place, left, columns)
        if factor is None or not factor.fits(params[use.param]):
            raise _UnreadableError(use.param)
        pieces.setdefault(use.param, []).append(factor)
    return {param: joined(factors) for param, factors in pieces.items()}


@lru_cache(maxsize=16)
def _weights(samples: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """One random number between 1/2 and 3/2 for each sample, M x 1, the same at each call."""
    generator = torch.Generator().manual_seed(1)
    rho = torch.rand(samples, 1, generator=generator, dtype=torch.float64) + 0.5
    return rho.to(device, dtype)


def _factor(use: Use, place: Placement, left: Tensor, columns: int) -> Factor | None:
    if use.operand is None:
        return Factor(left if use.scale == 1 else left * use.scale, None)
    operand = use.operand.to(left.dtype)
    if isinstance(place, Blocks) and len(operand) * columns != left.shape[0] * left.shape[1]:
        return None
    right = place.gather(operand)
    if use.scale != 1:
        right = right * use.scale
    if columns > 1:
        right = right.repeat_interleave(columns, 0)
    return Factor(left, right) if use.cotangent_is_left else Factor(right, left)


@dataclass(frozen=True)
class _Finder:
    """Places rows among samples, by two further backward passes, or one, where it must.

    Attributes:
        rho: M x 1, the samples' weights.
        columns: C.
        cotangents: a backward pass.
        search: whether it must wherever there is a choice.
    """

    rho: Tensor
    columns: int
    cotangents: Callable[[Tensor], Cotangents]
    search: bool

    def place(self, use: Use, rows: Tensor) -> Placement | None:
        samples = len(self.rho)
        if not self.search and fits_blocks(rows, samples):
            return Blocks(samples)
        return self._searched(use)

    def mixes(self, use: Use) -> bool:
        """Whether rows of this use belong to several samples."""
        return self._passes[0][use.output] is not None and self._searched(use) is None

    def _searched(self, use: Use) -> Placement | None:
        plain, numbered = (found[use.output] for found in self._passes)
        if plain is None or numbered is None:
            return None
        return placement(use.rows(plain), use.rows(numbered), len(self.rho))

    @cached_property
    def _passes(self) -> tuple[Cotangents, Cotangents]:
        generator = torch.Generator().manual_seed(2)
        mixture = torch.rand(self.columns, generator=generator, dtype=torch.float64) + 0.5
        weights = self.rho * mixture.to(self.rho)
        numbers = torch.arange(1, len(self.rho) + 1).to(self.rho)
        return self.cotangents(weights), self.cotangents(numbers[:, None] * weights)
