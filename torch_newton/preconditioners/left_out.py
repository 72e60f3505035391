r"""What a damped inverse puts in place of columns that a Jacobian leaves out.

For the parameters whose columns :math:`J_u` could not be read, one backward pass with random
signs u gives :math:`\tau = |J_u^T u|^2`, whose mean is the trace of :math:`J_u^T J_u` (Hutchinson
1990, *A stochastic estimator of the trace of the influence matrix*). No eigenvalue of that block
is larger than its trace, so :math:`1 / (\tau + \lambda)` in place of its damped inverse makes a
gradient step that is not too long, if tau is near its mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..graph.reading import Request


def shift_of(request: Request, left_out: Sequence[int]) -> Tensor | None:
    """P entries: tau for the parameters that are left out, zero for others; None without any."""
    if not left_out:
        return None
    like = request.terms[0].like
    generator = torch.Generator().manual_seed(0)
    signs = 2 * torch.randint(2, (sum(request.sizes),), generator=generator) - 1
    gradients = torch.autograd.grad(
        [term.z for term in request.terms],
        [request.params[i] for i in left_out],
        request.weights(signs.to(like)),
        retain_graph=True,
        allow_unused=True,
    )
    tau = sum(float(g.square().sum()) for g in gradients if g is not None)
    return torch.cat(
        [
            torch.full_like(param, tau if i in left_out else 0.0).reshape(-1)
            for i, param in enumerate(request.params)
        ]
    ).detach()
