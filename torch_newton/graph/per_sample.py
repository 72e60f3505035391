r"""The Jacobian of a loss's terms, read off their graph by one backward pass for each output.

Sample m has the random weight :math:`\rho_m` in that pass. Divided by it, the cotangent at an
operation that uses a weight matrix is the cotangent of that sample alone, if its rows belong to
single samples; that they do, and that everything else was read rightly, is checked on one
combination of all rows which autograd computes independently.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..linalg.factor import Factor
from ..linalg.indexed_factor import IndexedFactor
from .assembly import Part, joined
from .check import confirmed
from .layers import Layer, Passes
from .loss_curvature import OutputHessianRoot
from .readers import Uses
from .reading import Found, Request
from .tables import own_rows
from .use import MAX_ENTRIES, Use
from .views import Place

MAX_COLUMNS = 128
"""Outputs per sample up to which a term is read: each takes a backward pass, about as dear as half
a Hessian product. Measured for an operator network with 30 functions and 100 points, in closure
evaluations by time: a step takes 140 to 190 if the half that needs 100 passes is read, and 150 to
730 if it is left out."""


def blocks(request: Request, wanted: Collection[int]) -> Found:
    """What can be read if rows come sample after sample; nothing if anything read so is wrong."""
    found = read_uses(request, request.uses, wanted, search=False)
    # Where one guess was wrong others may be, and a search settles all of them at once.
    return found if confirmed(found) == found.read else Found(request)


def searched(request: Request, wanted: Collection[int]) -> Found:
    """What can be read if the sample of each row is found instead of guessed."""
    edges = [(i, get_gradient_edge(request.params[i])) for i in wanted]
    places = {i: (edge.node, edge.output_nr) for i, edge in edges}
    found = read_searched(request, request.uses, places)
    names = {use.param: use.output.node.name() for use in request.uses.uses}
    right = confirmed(found)
    wrong = {i: f"{names.get(i, 'an unknown use')} was misread" for i in found.read - right}
    return found.only(right, wrong)


def read_searched(request: Request, known: Uses, places: Mapping[int, Place]) -> Found:
    """What can be read by a search, unconfirmed.

    Of what is not read by its uses, tables are tried each row of which is used by one sample.

    Args:
        request: what is asked.
        known: the uses, and what is in the way of others.
        places: the parameters that are to be read, by their numbers, and where they are.
    """
    found = read_uses(request, known, places, search=True)
    device = request.terms[0].like.device
    own = [
        own_rows(place, i, request.params[i].shape, device)
        for i, place in places.items()
        if i not in found.read and request.params[i].ndim > 0
    ]
    if not own:
        return found
    tables = read_uses(request, Uses(own, {}), {use.param for use in own}, search=True)
    return found.beside(replace(tables, obstacles={}))


def across(request: Request, wanted: Collection[int]) -> Found:
    """What can be read if samples lie along the other dimensions of z than the first.

    Of an operator network's z, functions x points, the one half has a row for each function and
    the other a row for each point.
    """
    if any(root.matrix.ndim == 3 or 1 in root.matrix.shape for root in request.roots):
        return Found(request)
    found = read_uses(request, request.uses, wanted, search=True, across=True)
    return replace(found.only(confirmed(found), {}), obstacles={})


def read_uses(
    request: Request, known: Uses, wanted: Collection[int], search: bool, across: bool = False
) -> Found:
    """What can be read of the uses of parameters, unconfirmed.

    Args:
        request: what is asked.
        known: the uses, and what is in the way of others.
        wanted: the parameters that are to be read.
        search: whether the sample of each row is found, rather than guessed where it can be.
        across: whether samples lie across the first dimension of z.
    """
    roots = [root.transposed() if across else root for root in request.roots]
    uses = [use for use in known.uses if use.param in wanted]
    obstacles = {i: name for i, name in known.obstacles.items() if i in wanted}
    if not all(root.separates_samples for root in roots):
        mixed = "samples interact in the loss"
        return Found(request, obstacles=obstacles | {use.param: mixed for use in uses})
    if any(root.columns > MAX_COLUMNS for root in roots):
        many = f"more than {MAX_COLUMNS} outputs a sample"
        return Found(request, obstacles=obstacles | {use.param: many for use in uses})
    parts: list[Part] = []
    for term, root in zip(request.terms, roots, strict=True):
        uses = [use for use in uses if use.param not in obstacles]
        if not uses:
            return Found(request, obstacles=obstacles)
        passes = Passes(term, root, _outputs(uses), search, across)
        part, mixing = _read_term(passes, request.params, uses)
        if across:
            part = {i: factor.take(*_rows_of_z(root, term.like)) for i, factor in part.items()}
        parts.append(part)
        obstacles |= mixing
    found = Found(request, parts, frozenset(wanted), obstacles)
    return found.only(frozenset(wanted) - obstacles.keys(), {})


def _outputs(uses: Sequence[Use]) -> list[GradientEdge]:
    return list(dict.fromkeys(use.output for use in uses))


def _rows_of_z(root: OutputHessianRoot, like: Tensor) -> tuple[Tensor, Tensor]:
    """Which row belongs to each entry of z, where they are ordered by samples across; and ones."""
    order = torch.arange(like.numel(), device=like.device).reshape(root.rows, root.columns)
    return order.T.reshape(-1), like.new_ones(like.numel())


def _read_term(
    passes: Passes, params: Sequence[Tensor], uses: Sequence[Use]
) -> tuple[Part, dict[int, str]]:
    """The columns of one term; of parameters whose rows are not of single samples, why not."""
    mixing: dict[int, str] = {}
    if passes.search:
        mixing = {use.param: _mixing(use) for use in uses if passes.mixes(use)}
    layers: dict[object, Layer | None] = {}
    pieces: dict[int, list[Factor]] = {}
    for use in uses:
        if use.param in mixing or not passes.reaches(use):
            continue
        key = use.output, use.rows
        if key not in layers:
            layers[key] = passes.layer(use)
        layer = layers[key]
        factor = None if layer is None else layer.factor(use)
        if factor is None or not factor.fits(params[use.param]):
            mixing[use.param] = _mixing(use)
        else:
            pieces.setdefault(use.param, []).append(factor)
    for i, found in pieces.items():
        if _is_too_large(found):
            mixing[i] = "a large table that is used in several ways"
    return {i: joined(found) for i, found in pieces.items() if i not in mixing}, mixing


def _is_too_large(factors: Sequence[Factor]) -> bool:
    """Whether a table is also used in another way, and its one-hot vectors are too many to form."""
    tables = [factor for factor in factors if isinstance(factor, IndexedFactor)]
    entries = sum(table.index.numel() * table.number for table in tables)
    return len(tables) < len(factors) and entries > MAX_ENTRIES


def _mixing(use: Use) -> str:
    return f"{use.output.node.name()} mixes samples"
