r"""Several processes, each with its part of the batch: one loss, one matrix, one step.

The loss that is minimised is the mean of the ranks' losses, as `DistributedDataParallel` defines
it: every rank counts the same, however many samples it has. So gradient, products and losses are
means over the ranks, and the Gauss-Newton matrix is

.. math:: \frac1W \sum_r \hat J_r^T \hat J_r,

whose rows are the rows of all ranks, divided by the square root of their number W. Everything
that a step decides by is such a mean, and so every rank takes the same step.
"""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

from ..linalg.operators import LinearOperator, symmetric
from ..preconditioners.base import AtDamping
from .uninterrupted import uninterrupted

SHARDED = {
    "DeepSpeedEngine": "DeepSpeed",
    "FSDPModule": "FSDP",
    "FullyShardedDataParallel": "FSDP",
}
"""Classes of modules that hold a part of the parameters on each rank."""


PATIENCE = 10.0
"""Seconds that a rank which has failed waits for the others to notice. Chosen: more than they may
lag behind within a step of a small model, and little beside PyTorch's timeout of half an hour."""


class RankError(RuntimeError):
    """The ranks cannot take a common step; the message says why."""


class Ranks:
    """The processes that train one model with `DistributedDataParallel`; or just this one."""

    def __init__(self) -> None:
        self.distributed: bool = dist.is_available() and dist.is_initialized()
        self.several: bool = self.distributed and dist.get_world_size() > 1
        self.synchronised: bool = False
        self._reported = False
        self._group: Any = None
        self._called_ddp = False

    def examine(self, module: nn.Module) -> None:
        """Look at a module that the closure calls.

        Raises:
            RankError: it is one whose parameters are divided among the ranks.
        """
        what = _sharded(type(module))
        if what is not None:
            raise RankError(
                f"RegNewton does not work with {what}, which holds a part of the parameters on "
                "each rank: use DistributedDataParallel (Lightning: strategy='ddp')"
            )
        if isinstance(module, DistributedDataParallel):
            self._called_ddp, self._group = True, module.process_group
            self.synchronised = bool(module.require_backward_grad_sync)
            if _under_join(module):
                raise RankError(
                    "RegNewton cannot step under DistributedDataParallel.join(), where ranks "
                    "run out of batches one by one: give every rank the same number of batches"
                )

    def check(self) -> None:
        """Raise where there are several processes and the closure has not averaged over them.

        Raises:
            RankError: its model is not wrapped, or ran under ``no_sync`` to the end.
        """
        if not self.several:
            return
        if not self._called_ddp:
            raise RankError(
                "there are several processes, but the closure has not called a "
                "DistributedDataParallel model, and each rank would step for itself: wrap the "
                "model, call the wrapped one in the closure, or train in a single process"
            )
        if not self.synchronised:
            raise RankError(
                "the closure ran under no_sync(), so that each rank would step for itself: "
                "leave no_sync() for the last micro-batch, which step() evaluates"
            )

    @property
    def active(self) -> bool:
        """Whether there is anything to average, as far as the closure has run."""
        return self.several and self._called_ddp

    def mean(self, vector: Tensor) -> Tensor:
        """The mean of a tensor over the ranks."""
        if not self.active:
            return vector
        return self.total(vector).div_(self.world)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over the ranks."""
        total = tensor.clone(memory_format=torch.contiguous_format)
        with self._announced(tensor):
            dist.all_reduce(total, group=self._group)
        return total

    @contextmanager
    def _announced(self, like: Tensor) -> Iterator[None]:
        """An exchange of numbers, once no rank has failed.

        Nothing may come between the two on any rank: the others would wait for the numbers, and
        what they were sent would be the news of the failure. So memory is allocated before.
        """
        with uninterrupted():
            self.agree(0.0, like)
            yield

    def agree(self, value: float, like: Tensor) -> float:
        """The mean of a number over the ranks; all of them raise where one has failed.

        Raises:
            RankError: another rank has failed.
        """
        if not self.active:
            return value
        # A number that is not finite must come back as it is, and not spoil the count.
        sums = torch.tensor([value, 0.0], dtype=torch.float64, device=like.device)
        dist.all_reduce(sums, group=self._group)
        if sums[1] > 0:
            self._reported = True
            raise RankError(
                "the step failed on another rank, whose message says why; it changed nothing on "
                "any of them"
            )
        return float(sums[0]) / self.world

    def report(self, like: Tensor) -> None:
        """Let the other ranks, which wait for what this one was to send, know that it has failed.

        Every exchange begins with `agree`, and so the others learn of it wherever they are. They
        may be past their last one, or in one that is not the step's, so that this waits for them
        no longer than `PATIENCE`.
        """
        if not self.several or self._reported:
            return
        self._reported = True
        sums = torch.tensor([0.0, 1.0], dtype=torch.float64, device=like.device)
        with suppress(Exception):  # what this rank has to say is in the error that is under way
            work = dist.all_reduce(sums, group=self._group, async_op=True)
            end = time.monotonic() + PATIENCE
            while not work.is_completed() and time.monotonic() < end:
                time.sleep(0.01)

    def everywhere(self, holds: bool, like: Tensor) -> bool:
        """Whether something holds on every rank."""
        return self.agree(float(not holds), like) == 0

    def averaged(self, A: LinearOperator) -> LinearOperator:
        """The mean of a symmetric operator over the ranks."""
        if not self.active:
            return A

        def product(v: Tensor) -> Tensor:
            return self.mean(A @ v)

        return symmetric(A.shape[0], product, dtype=A.dtype, device=A.device, matmat=product)

    def preconditioner(self, at_damping: AtDamping | None, like: Tensor) -> AtDamping | None:
        """The mean over the ranks of a preconditioner that each has made from its own loss.

        None where some rank has none.
        """
        if not self.everywhere(at_damping is not None, like) or at_damping is None:
            return None
        if not self.active:
            return at_damping
        return lambda damping: self.averaged(at_damping(damping))

    @property
    def world(self) -> int:
        """W, how many they are."""
        return dist.get_world_size(self._group) if self.active else 1

    @property
    def number(self) -> int:
        """Which of them this one is, from zero on."""
        return dist.get_rank(self._group) if self.active else 0

    def rows(self, part: Tensor, rows: list[int]) -> Tensor:
        """Parts of as many rows as `rows` says for each rank, one below the other."""
        padded = part.new_zeros(max(rows), *part.shape[1:])
        padded[: len(part)] = part
        return torch.cat([piece[:n] for piece, n in zip(self.gather(padded), rows, strict=True)])

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks, stacked."""
        mine, found = tensor.contiguous(), tensor.new_empty(self.world, *tensor.shape)
        with self._announced(tensor):
            dist.all_gather(list(found.unbind()), mine, group=self._group)
        return found


_ended: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()
"""Of modules that once ran under ``join()`` the configuration of one that has ended."""


def _under_join(module: nn.Module) -> bool:
    """Whether the module is called within ``with module.join():``.

    The module itself keeps the configuration when the block ends, but nobody keeps the context:
    where there is none left, the block has ended.
    """
    config = getattr(module, "_join_config", None)
    if not getattr(config, "enable", False) or _ended.get(module) is config:
        return False
    if any(issubclass(type(found), Join) for found in gc.get_objects()):
        return True
    _ended[module] = config
    return False


def _sharded(kind: type) -> str | None:
    return next((SHARDED[c.__name__] for c in kind.__mro__ if c.__name__ in SHARDED), None)
