"""Fit a million samples with full-batch steps: J^T J is summed over blocks of rows.

    python examples/million_samples.py [--samples 1000000] [--steps 20]

The closure goes over a `DataLoader` and calls ``backward`` for each of its batches, whose losses
add up to the mean over all samples; the bar counts the batches of all evaluations. A step holds the
graphs of all batches and, twice as large, the factors of their rows: 2.6 GB for a million.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset
from tqdm import tqdm

from torch_newton import RegNewton


def samples(number: int) -> TensorDataset:
    """Three waves and a bump in the plane, with noise of one percent."""
    x = 2 * torch.rand(number, 2) - 1
    y = torch.sin(5 * x[:, :1]) * torch.cos(4 * x[:, 1:]) + torch.exp(-10 * x.square().sum(1, True))
    return TensorDataset(x, y + 0.01 * torch.randn(number, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=100_000)
    options = parser.parse_args()
    torch.manual_seed(0)
    data = samples(options.samples)
    # Each batch is taken at once, instead of sample by sample.
    batches = BatchSampler(SequentialSampler(data), options.batch, drop_last=False)
    loader = DataLoader(data, sampler=batches, batch_size=None)
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = RegNewton(net.parameters(), curvature="gauss_newton")
    bar = tqdm(unit=" batches")

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros(())
        for x, y in loader:
            loss = (net(x) - y).square().sum() / len(data)
            loss.backward()
            total += loss.detach()
            bar.update()
        return total

    begin = time.perf_counter()
    for _ in range(options.steps):
        optimizer.step(closure)
        step = optimizer.last_step
        assert step is not None
        each = (time.perf_counter() - begin) / step.iteration
        error = step.loss_after**0.5
        bar.write(f"step {step.iteration}: error {error:.5f}, {each:.1f} s a step")
    bar.close()


if __name__ == "__main__":
    main()
