"""The Gram matrix of a Laplacian residual: read off the closure's graph, and by batched VJPs.

    python -m examples.benchmarks.gram [--rows 400] [--threads 2]

2 -> 64 -> 64 -> 64 -> 1 tanh network, double precision, residual u_xx + u_yy by nested
`autograd.grad`. Times are medians, each with its own graph at hand; reading includes the walk
over the graph, the backward passes and the check against autograd.
"""

from __future__ import annotations

import argparse
import itertools

import torch
from torch import Tensor, nn

from torch_newton import find_residuals
from torch_newton.preconditioners.function_space import function_space

from .figures import time_of


def laplacian_loss(net: nn.Module, points: Tensor) -> Tensor:
    """The mean square of u_xx + u_yy - 1, as a user would write it."""
    x = points.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    seconds = [
        torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2)
    ]
    return (seconds[0] + seconds[1] - 1).square().mean()


def by_vjps(loss: Tensor, params: list[Tensor]) -> Tensor:
    """J J^T of the scaled residuals by one vectorised backward pass over all rows."""
    (term,) = find_residuals(loss).terms
    size = term.like.numel()
    rows = torch.autograd.grad(
        [term.z], params, [torch.eye(size)], retain_graph=True, allow_unused=True,
        is_grads_batched=True,
    )  # fmt: skip
    J = torch.cat([row.reshape(size, -1) for row in rows if row is not None], 1)
    return 2 / size * (J @ J.T)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    widths = (2, 64, 64, 64, 1)
    layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.Tanh())]
    net = nn.Sequential(*layers[:-1])
    params = list(net.parameters())
    loss = laplacian_loss(net, torch.rand(options.rows, 2))

    def read() -> Tensor:
        space = function_space(find_residuals(loss), params)
        if space is None:
            raise SystemExit("the graph could not be read")
        return space.gram

    found, expected = read(), by_vjps(loss, params)
    seconds, reference = time_of(read, 10), time_of(lambda: by_vjps(loss, params), 2)
    print(
        f"{options.rows} rows: {seconds * 1e3:.1f} ms read off the graph, "
        f"{reference * 1e3:.0f} ms by batched VJPs: {reference / seconds:.0f} times faster; "
        f"largest difference {float((found - expected).abs().max() / expected.abs().max()):.1e}"
    )


if __name__ == "__main__":
    main()
