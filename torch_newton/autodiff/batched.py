"""Many backward passes through one graph at once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..linalg.operators import Product
from .nodes import largest_gradient

ENTRIES = {"cpu": 2**17}
"""Entries that the largest tensor of a batch may have, by kind of device. On a CPU a batch that
does not fit into a core's cache is slower than single products: 2**17 doubles are 1 MiB, half of a
usual second-level cache. Measured on one core for networks of two hidden layers, in the time of
single products: 0.1 with 20 samples of width 20, 0.55 with 200 of width 20, 0.85 with 200 of width
50, whatever the limit from 2**16 on; with 1,000 of width 50 it is 1.0 up to 2**16, 1.2 here, and
1.6 from 2**19 on."""

OTHER_ENTRIES = 2**25
"""The same for devices that are not named in `ENTRIES`, where only memory sets a limit: 2**25
entries are 128 MiB in single precision, for each of the few tensors that are alive at once."""

UNKNOWN = 8
"""Products in a batch where the graph does not say how large its tensors are: enough to save most
of the calls, and no more than eight times the memory of a single product."""


@dataclass
class Batched:
    """U, n x k -> J^T U, P x k: the backward passes of k cotangents of one graph.

    They are taken in batches (``is_grads_batched``) of as many as `ENTRIES` allows, and one by
    one once the graph turns out to have an operation that cannot be vectorised.

    Attributes:
        outputs: the parts of the n outputs that have a graph, as tensors or edges.
        live: for each part of the n outputs, whether it is among `outputs`.
        like: a tensor of the shape of each part.
        params: the P parameters.
        single: u -> J^T u, for one cotangent of n entries.
    """

    outputs: Sequence[Any]
    live: Sequence[bool]
    like: Sequence[Tensor]
    params: Sequence[Tensor]
    single: Product
    _size: int = field(default=0, init=False)

    def __call__(self, U: Tensor) -> Tensor:
        k = U.shape[1]
        P = sum(param.numel() for param in self.params)
        result = torch.empty(k, P, dtype=U.dtype, device=U.device)
        if not self.outputs:
            return result.zero_().T
        if not self._size:
            self._size = self._affordable(U.device.type)
        done = 0
        while done < k:
            stop = min(k, done + self._size)
            if stop - done > 1 and self._batch(U[:, done:stop].T, result[done:stop]):
                done = stop
                continue
            result[done] = self.single(U[:, done])
            done += 1
        return result.T

    def _affordable(self, device: str) -> int:
        """Products in a batch; at least one."""
        nodes = [
            output.node if isinstance(output, GradientEdge) else output.grad_fn
            for output in self.outputs
        ]
        entries = largest_gradient([node for node in nodes if node is not None])
        return max(1, ENTRIES.get(device, OTHER_ENTRIES) // entries) if entries else UNKNOWN

    def _batch(self, cotangents: Tensor, result: Tensor) -> bool:
        """Write the products with b cotangents, b x n, to `result`, b x P.

        Returns:
            False, and from then on single products, where an operation cannot be vectorised.
        """
        sizes = [tensor.numel() for tensor in self.like]
        pieces = [
            piece.reshape(len(cotangents), *tensor.shape)
            for piece, tensor, has_graph in zip(
                torch.split(cotangents, sizes, dim=1), self.like, self.live, strict=True
            )
            if has_graph
        ]
        try:
            with warnings.catch_warnings():
                # An operation without a batching rule is looped over, which is still right.
                warnings.filterwarnings("ignore", ".*performance drop.*")
                grads = torch.autograd.grad(
                    self.outputs,
                    list(self.params),
                    pieces,
                    retain_graph=True,
                    allow_unused=True,
                    is_grads_batched=True,
                )
        except RuntimeError:
            self._size = 1
            return False
        start = 0
        for grad, param in zip(grads, self.params, strict=True):
            columns = result[:, start : start + param.numel()]
            if grad is None:
                columns.zero_()
            else:
                columns.copy_(grad.detach().reshape(len(cotangents), -1))
            start += param.numel()
        return True
