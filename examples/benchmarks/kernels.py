"""The neural tangent kernel of a network against what torch.func gives: time, memory, agreement.

    python -m examples.benchmarks.kernels

The Gram matrix J J^T of a tanh network with three hidden layers of 256 on 512 samples, in double
precision, by `torch_newton.tangent_gram` and by contracting `torch.func.jacrev`. Each runs in a
process of its own; peak memory is that of the process less what it held before.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from torch_newton import tangent_gram


def network(width: int) -> nn.Sequential:
    torch.manual_seed(0)
    sizes = [2, width, width, width]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 1)).double()


def by_torch_newton(net: nn.Sequential, x: Tensor) -> Tensor:
    return tangent_gram(net(x), list(net.parameters()))


def by_jacrev(net: nn.Sequential, x: Tensor) -> Tensor:
    params = {name: param.detach() for name, param in net.named_parameters()}
    jacobians = torch.func.jacrev(lambda p: torch.func.functional_call(net, p, (x,)))(params)
    gram = torch.zeros(len(x), len(x), dtype=x.dtype)
    for jacobian in jacobians.values():
        rows = jacobian.reshape(len(x), -1)
        gram += rows @ rows.T
    return gram


WAYS = {"torch_newton": by_torch_newton, "jacrev": by_jacrev}


def peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(way: str, width: int, samples: int, repeats: int, result: Path) -> None:
    """Print the seconds of the fastest repeat and the peak memory; save the matrix."""
    net, x = network(width), torch.randn(samples, 2, dtype=torch.float64)
    with torch.no_grad():
        net(x)
    small = network(4)
    WAYS[way](small, x[:4])  # what is loaded at the first use is no part of it
    before = peak_mebibytes()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        gram = WAYS[way](net, x)
        seconds.append(time.perf_counter() - start)
    torch.save(gram.detach(), result)
    print(min(seconds), peak_mebibytes() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way is not None:
        measure(options.way, options.width, options.samples, options.repeats, options.result)
        return
    found, matrices = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            result = Path(folder) / way
            sizes = f"--width={options.width} --samples={options.samples}".split()
            command = [sys.executable, "-m", "examples.benchmarks.kernels", *sizes]
            command += [f"--repeats={options.repeats}", f"--way={way}", f"--result={result}"]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[way] = [float(number) for number in output.split()]
            matrices[way] = torch.load(result)
            print(f"{way:13s} {found[way][0]:8.3f} s {found[way][1]:9.1f} MiB")
    ours, theirs = found["torch_newton"], found["jacrev"]
    expected = matrices["jacrev"]
    error = (matrices["torch_newton"] - expected).abs().max() / expected.abs().max()
    print(f"{theirs[0] / ours[0]:.1f} times faster, {theirs[1] / ours[1]:.1f} times less memory")
    print(f"largest difference {float(error):.1e} of the largest entry")


if __name__ == "__main__":
    main()
