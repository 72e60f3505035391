"""Models of which each rank holds a part."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

from tests.closure.ddp.problems import loss_of, network
from torch_newton import RegNewton
from torch_newton.closure.distributed import RankError

SHARDED = ("fully_shard", "FullyShardedDataParallel", "tensor parallelism")


def sharded(kind: str, world: int) -> str:
    """What is raised where each rank holds a part of every parameter."""
    mesh = init_device_mesh("cpu", (world,))
    model: nn.Module = network(3)
    if kind == "fully_shard":
        fully_shard(model, mesh=mesh)
    elif kind == "FullyShardedDataParallel":
        model = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
    else:
        parallelize_module(model, mesh, {"0": ColwiseParallel()})
    try:
        optimizer = RegNewton(model.parameters())
        optimizer.step(lambda: loss_of("auto", model, 0))
    except (TypeError, RankError) as error:
        return str(error)
    return "no error"
