"""What wave, convection and reaction share: the setting of Rathore et al. 2024 (arXiv 2402.01868).

10,000 points of a 255 x 100 grid in the interior, 257 at the start, 101 on each wall; tanh layers
from Glorot's distribution; all terms weigh one; the error is relative L2 on the whole grid. These
are failure modes of Krishnapriyan et al. 2021: most methods end at a trivial solution.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...networks import glorot
from ..problem import Field, Training, relative
from ..sampling import at_start, grid

NNCG = "arXiv 2402.01868"
WIDTHS = (2, 200, 200, 200, 200, 1)
PARAMETERS = 121_401
INTERIOR, START, WALL = 10_000, 257, 101


def evolution(
    residuals: Callable[..., tuple[Tensor, ...]], exact: Field, length: float, terms: int
) -> Training:
    """The points (t, x): interior, start, lower wall, upper wall."""
    net = glorot(WIDTHS)
    # 257 places with the walls, 101 times with the start: 255 x 100 inside.
    places, times = torch.linspace(0, length, START), torch.linspace(0, 1, WALL)
    inside = grid(times[1:], places[1:-1])
    chosen = inside[torch.randperm(len(inside))[:INTERIOR]]
    low, high = (torch.stack([times, torch.full_like(times, x)], 1) for x in (0.0, length))
    test = grid(times, places)
    reference = exact(test)
    return Training(
        net,
        residuals,
        (chosen, at_start(places[:, None]), low, high),
        (1.0,) * terms,
        lambda: relative(net, test, reference),
        exact=exact,
    )
