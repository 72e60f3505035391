"""The lid-driven cavity at Re = 100: velocities and pressure from one network.

Published: DSGNAR (arXiv 2607.02194), from a transcription of its table, which does not tell the
network, the points, and what is done in the lid's corners, where the velocity jumps. Here points
are uniform, the conditions weigh ten, and the row does not count.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...networks import glorot
from ..cavity_flow import REYNOLDS, extrapolated, nodes
from ..derivatives import components
from ..problem import Field, Problem, Published, Training, relative
from ..sampling import in_box, on_faces

INSIDE, EDGE = 3000, 1000
CELLS = 16


def residuals(field: Field, inside: Tensor, edge: Tensor) -> tuple[Tensor, ...]:
    """Momentum along x and y, mass, and the velocity at the walls, of which y = 1 is the lid."""
    u, v, p = components(field, inside)

    def momentum(w, axis: int) -> Tensor:
        return u.u * w.d(0) + v.u * w.d(1) + p.d(axis) - w.laplacian() / REYNOLDS

    lid = torch.stack([(edge[:, 1] == 1).to(edge), torch.zeros_like(edge[:, 1])], 1)
    return momentum(u, 0), momentum(v, 1), u.d(0) + v.d(1), field(edge)[:, :2] - lid


def build(seed: int) -> Training:
    net = glorot((2, 30, 30, 30, 30, 3))
    points = in_box(INSIDE, (0.0, 0.0), (1.0, 1.0)), on_faces(EDGE, 2)
    places = torch.from_numpy(nodes(CELLS))
    test = torch.cartesian_prod(places, places)
    flow = torch.from_numpy(extrapolated(shown=CELLS)).reshape(2, -1).T
    return Training(
        net,
        residuals,
        points,
        (1.0, 1.0, 1.0, 10.0),
        lambda: relative(lambda x: net(x)[:, :2], test, flow),
    )


PROBLEMS = (
    Problem(
        "cavity",
        "(u grad) u + grad p = lap u / 100, div u = 0 on [0, 1]^2, u = (1, 0) at y = 1, 0 at the "
        "other walls",
        build,
        rows=3 * INSIDE + 2 * EDGE,
        parameters=2973,
        measure="relative L2 of the velocity",
        published=(Published(1.1e-4, "DSGNAR", "arXiv 2607.02194", seconds=403),),
        differs="network, rows and treatment of the corners of the source are not known to us",
    ),
)
