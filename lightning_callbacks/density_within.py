"""The density of a matrix's eigenvalues, one product or one block of products at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_newton import LinearOperator, SpectralDensity
from torch_newton.linalg.density import density_of
from torch_newton.linalg.lanczos import Process

from .allowance import Allowance, OutOfTimeError
from .work import Unit, Vote, Work

PROBES, STEPS = 4, 30
"""Random vectors, and products with each, of `negative_fraction` by default."""

BLOCK_SIZE = 2**12
"""Rows of a matrix up to which products with several vectors are taken at once, in the memory of as
many graphs: those of four then took 0.64 to 0.76 of the time of single ones for dense networks of
400 to 4,800 parameters, and as long for a CNN of 6,000 and larger networks."""


def density_work(
    H: LinearOperator, allowance: Allowance, probes: int
) -> Work[SpectralDensity | None]:
    """That of `spectral_density` at its defaults; None where there is no time for all of it.

    Where products are taken one by one, so are the processes, each of which gives up its vectors
    when it has ended.
    """
    processes: list[Process] = []
    squares: list[float] = []
    together = H.shape[0] <= BLOCK_SIZE
    running: list[Process] = []
    while True:
        for process in running:
            if process.finished:
                process.give_up()
        running = [process for process in running if not process.finished]
        while len(processes) < probes and (together or not running):
            v = _gaussian(H, len(processes))
            squares.append(float(v @ v))
            running.append(Process(H, STEPS, v, 0))
            processes.append(running[-1])
            del v
        if (yield Vote(not running, not running)):
            return density_of(processes, squares)
        try:
            yield Unit("product", count=len(running))
        except OutOfTimeError:
            allowance.reduced = True
            return None
        if len(running) == 1:
            running[0].advance()
            continue
        block = H @ torch.stack([process.next for process in running], dim=1)
        for process, product in zip(running, block.unbind(1), strict=True):
            process.take(product)
        del block, product


def _gaussian(H: LinearOperator, seed: int) -> Tensor:
    """P standard normal numbers in double precision."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(H.shape[0], generator=random, dtype=torch.float64)
