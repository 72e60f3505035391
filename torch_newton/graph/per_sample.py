r"""The Jacobian of a loss's terms, read off their graph by one backward pass for each output.

Sample m has the random weight :math:`\rho_m` in that pass. Divided by it, the cotangent at an
operation that uses a weight matrix is the cotangent of that sample alone, if its rows belong to
single samples; that they do, and that everything else was read rightly, is checked on one
combination of all rows which autograd computes independently.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from ..linalg.factor import Factor
from .assembly import Part, joined
from .check import confirmed
from .layers import Layer, Passes
from .loss_curvature import OutputHessianRoot
from .reading import Found, Request
from .terms import Term
from .use import Use

MAX_COLUMNS = 32
"""Outputs per sample up to which a term is read: each takes a backward pass, about as dear as half
a Hessian product, of which a step without a preconditioner takes up to 50."""


def blocks(request: Request, wanted: Collection[int]) -> Found:
    """What can be read if rows come sample after sample; nothing if anything read so is wrong."""
    found = _read(request, wanted, search=False)
    # Where one guess was wrong others may be, and a search settles all of them at once.
    return found if confirmed(found) == found.read else Found(request)


def searched(request: Request, wanted: Collection[int]) -> Found:
    """What can be read if the sample of each row is found instead of guessed."""
    found = _read(request, wanted, search=True)
    names = {use.param: use.output.node.name() for use in request.uses.uses}
    right = confirmed(found)
    wrong = {i: f"{names.get(i, 'an unknown use')} was misread" for i in found.read - right}
    return found.only(right, wrong)


def _read(request: Request, wanted: Collection[int], search: bool) -> Found:
    uses = [use for use in request.uses.uses if use.param in wanted]
    obstacles = {i: name for i, name in request.uses.obstacles.items() if i in wanted}
    if any(root.columns > MAX_COLUMNS for root in request.roots):
        many = f"more than {MAX_COLUMNS} outputs a sample"
        return Found(request, obstacles=obstacles | {use.param: many for use in uses})
    parts: list[Part] = []
    for term, root in zip(request.terms, request.roots, strict=True):
        uses = [use for use in uses if use.param not in obstacles]
        if not uses:
            return Found(request, obstacles=obstacles)
        part, mixing = _read_term(term, root, request.params, uses, search)
        parts.append(part)
        obstacles |= mixing
    found = Found(request, parts, frozenset(wanted), obstacles)
    return found.only(frozenset(wanted) - obstacles.keys(), {})


def _read_term(
    term: Term, root: OutputHessianRoot, params: Sequence[Tensor], uses: Sequence[Use], search: bool
) -> tuple[Part, dict[int, str]]:
    """The columns of one term; of parameters whose rows are not of single samples, why not."""
    passes = Passes(term, root, list(dict.fromkeys(use.output for use in uses)), search)
    mixing: dict[int, str] = {}
    if search:
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
    return {i: joined(found) for i, found in pieces.items() if i not in mixing}, mixing


def _mixing(use: Use) -> str:
    return f"{use.output.node.name()} mixes samples"
