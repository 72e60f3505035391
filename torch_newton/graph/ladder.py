"""From terms of a loss to their per-sample Jacobian: one strategy after another.

Each is asked for the parameters that those before it have not read, so that a parameter which is
used in an unusual way costs what its own columns cost, and no more.
"""

from __future__ import annotations

from . import by_autograd, per_sample
from .composed import composed
from .guard import attempt
from .reading import Found, Reading, Request, Rung, Strategy

LADDER: dict[Rung, Strategy] = {
    Rung.BLOCKS: per_sample.blocks,
    Rung.SEARCHED: per_sample.searched,
    Rung.ACROSS: per_sample.across,
    Rung.COMPOSED: composed,
    Rung.COLUMNS: by_autograd.columns,
    Rung.ROWS: by_autograd.rows,
}
"""The strategies in the order in which they are tried: cheap ones first."""


def read_jacobian(request: Request) -> Reading:
    """The Jacobian asked for, as far as it can be read; parameters left over are left out."""
    rungs = [Rung.NONE] * len(request.params)
    found, failure = Found(request), None
    for rung, strategy in LADDER.items():
        wanted = {i for i, read_on in enumerate(rungs) if read_on is Rung.NONE}
        if not wanted:
            break
        new, error = attempt(lambda: strategy(request, wanted))  # noqa: B023 - called at once
        failure = failure or error
        if new is None:
            continue
        found = found.beside(new)
        for i in new.read:
            rungs[i] = rung
    jacobian = found.jacobian if found.read else None
    off_graph = (Rung.BLOCKS, Rung.SEARCHED, Rung.ACROSS, Rung.COMPOSED)
    obstacles = {i: what for i, what in found.obstacles.items() if rungs[i] not in off_graph}
    return Reading(jacobian, tuple(rungs), obstacles, failure)
