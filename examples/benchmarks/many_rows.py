"""Many more rows than parameters: Burgers' equation in single and in double precision.

    python -m examples.benchmarks.many_rows [--precision float32] [--seconds 60]
    python -m examples.benchmarks.many_rows --precision float64 --times 8

Viscosity 0.01, a tanh network of 4 x 20 in (t, sin pi x, cos pi x), P = 1,361; residuals at 8,192
points and initial values at 1,024, R = 9,216. Prints the loss and the relative L2 error against
seconds, and in brackets the error of the same parameters evaluated in double precision; evaluating
errors is not counted. With ``--times`` there are so many times more rows, and what is printed are
the seconds of a step and the peak of the process's memory, beside those of the closure alone.
"""

from __future__ import annotations

import argparse
import copy
import math
import resource
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from torch_newton import RegNewton

VISCOSITY = 0.01


class Network(nn.Module):
    """u(t, x), periodic in x."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 20, 20, 20, 20, 1]
        self.layers = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
        for layer in self.layers:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        h = torch.stack([t, torch.sin(math.pi * x), torch.cos(math.pi * x)], 1)
        for layer in self.layers[:-1]:
            h = torch.tanh(layer(h))
        return self.layers[-1](h)[:, 0]


def solution(t: Tensor, x: Tensor) -> Tensor:
    """The formula of Cole and Hopf, by the trapezoidal rule (`problems.pinn.burgers_reference`)."""
    z = torch.linspace(-13, 13, 801)
    y = x[:, None] - z * torch.sqrt(4 * VISCOSITY * t[:, None])
    weight = torch.softmax(-torch.cos(math.pi * y) / (2 * math.pi * VISCOSITY) - z**2, 1)
    return -(torch.sin(math.pi * y) * weight).sum(1)


def problem(
    dtype: torch.dtype, times: int = 1
) -> tuple[Network, Callable[[], Tensor], Callable[[nn.Module], float]]:
    """The network, the loss, and the error of a network of any precision."""
    net = Network().to(dtype)
    t = torch.rand(8192 * times).to(dtype)
    x = (2 * torch.rand(8192 * times) - 1).to(dtype)
    start = (2 * torch.rand(1024 * times) - 1).to(dtype)
    zero, wave = torch.zeros_like(start), -torch.sin(math.pi * start.double()).to(dtype)
    grid = torch.cartesian_prod(torch.linspace(0, 1, 41), torch.linspace(-1, 1, 81))
    exact = solution(*grid.T)

    def loss() -> Tensor:
        ts, xs = t.clone().requires_grad_(), x.clone().requires_grad_()
        u = net(ts, xs)
        u_t, u_x = torch.autograd.grad(u.sum(), [ts, xs], create_graph=True)
        (u_xx,) = torch.autograd.grad(u_x.sum(), xs, create_graph=True)
        residual = u_t + u * u_x - VISCOSITY * u_xx
        return residual.square().mean() + 10 * (net(zero, start) - wave).square().mean()

    def error(found: nn.Module) -> float:
        with torch.no_grad():
            u = found(*grid.T.to(next(found.parameters()))).double()
        return float((u - exact).norm() / exact.norm())

    return net, loss, error


def train(dtype: torch.dtype, seconds: float, every: int) -> None:
    """Print loss and error until the time is over."""
    net, loss, error = problem(dtype)
    optimizer = RegNewton(net.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    spent, number = 0.0, 0
    while spent < seconds:
        begin, number = time.perf_counter(), number + 1
        optimizer.step(closure)
        spent += time.perf_counter() - begin
        if number % every == 0 or spent >= seconds:
            step, double = optimizer.last_step, copy.deepcopy(net).double()
            assert step is not None
            print(
                f"{number} steps, {spent:.1f} s: loss {step.loss_after:.2e}, error "
                f"{error(net):.2e} ({error(double):.2e}), {step.system}, lambda "
                f"{step.damping:.1e}",
                flush=True,
            )


def measure(dtype: torch.dtype, times: int) -> None:
    """Print seconds and memory of the closure, and of three steps."""
    net, loss, _ = problem(dtype, times)
    optimizer = RegNewton(net.parameters(), curvature="gauss_newton")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    for what, call in [("closure", closure)] + [("step", lambda: optimizer.step(closure))] * 3:
        begin = time.perf_counter()
        call()
        spent = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{9216 * times} rows, {what}: {spent:.2f} s, peak {peak:.2f} GB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=("float32", "float64"), default="float32")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=int, default=10, metavar="STEPS", help="print so often")
    parser.add_argument("--times", type=int, help="only measure steps, with so many times the rows")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    dtype = getattr(torch, options.precision)
    if options.times is not None:
        measure(dtype, options.times)
    else:
        train(dtype, options.seconds, options.every)


if __name__ == "__main__":
    main()
