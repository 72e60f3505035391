"""Attributes and class names by which models and parameters of several processes are known."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torch_newton.closure.distributed import SHARDED, _under_join

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="PyTorch without gloo"
)

FILE = "closure/distributed.py"


@pytest.fixture
def wrapped() -> Iterator[DistributedDataParallel]:
    """A model in a group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield DistributedDataParallel(nn.Linear(2, 1))
    dist.destroy_process_group()


def test_ddp_says_whether_it_averages(wrapped: DistributedDataParallel) -> None:
    lost = (
        f"require_backward_grad_sync of DistributedDataParallel no longer follows no_sync(): "
        f"each rank would step for itself; {FILE}"
    )
    assert wrapped.require_backward_grad_sync is True, lost
    with wrapped.no_sync():
        assert wrapped.require_backward_grad_sync is False, lost


def test_ddp_says_whether_it_runs_under_join(wrapped: DistributedDataParallel) -> None:
    lost = (
        "DistributedDataParallel._join_config.enable no longer tells join(): ranks that run out "
        f"of batches would wait for each other for ever; {FILE}"
    )
    assert wrapped._join_config.enable is False, lost
    with wrapped.join():
        assert wrapped._join_config.enable is True, lost


def test_nobody_keeps_a_join_that_has_ended(wrapped: DistributedDataParallel) -> None:
    with wrapped.join():
        assert _under_join(wrapped)
    assert not _under_join(wrapped), (
        "the context of DistributedDataParallel.join() outlives its block: after a join RegNewton "
        f"refuses every step; {FILE}"
    )
    with wrapped.join():
        assert _under_join(wrapped)


def test_ddp_holds_its_group(wrapped: DistributedDataParallel) -> None:
    assert dist.get_world_size(wrapped.process_group) == 1, (
        f"DistributedDataParallel no longer has its process_group; {FILE}"
    )


def _names(kind: type) -> set[str]:
    return {base.__name__ for base in kind.__mro__}


def test_sharded_modules_have_the_names_that_are_refused() -> None:
    from torch.distributed import fsdp

    for name in ("FSDPModule", "FullyShardedDataParallel"):
        assert name in SHARDED
        assert name in _names(getattr(fsdp, name)), (
            f"FSDP's {name} has another name: a model whose parameters are divided among ranks "
            f"is stepped as if it were whole; {FILE}"
        )


def test_deepspeed_has_the_name_that_is_refused() -> None:
    assert "DeepSpeedEngine" in SHARDED
    deepspeed = pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: not checked")
    assert "DeepSpeedEngine" in _names(deepspeed.DeepSpeedEngine), f"DeepSpeed; {FILE}"


def test_every_name_that_is_refused_is_checked_here() -> None:
    checked = {"DeepSpeedEngine", "FSDPModule", "FullyShardedDataParallel"}
    assert set(SHARDED) == checked, f"check {set(SHARDED) ^ checked} in tests/contract"


def test_parameters_that_are_refused_have_their_names() -> None:
    from torch.distributed.fsdp import _flat_param
    from torch.distributed.tensor import DTensor

    for name, kind in (
        ("DTensor", DTensor),
        ("FlatParameter", _flat_param.FlatParameter),
        ("UninitializedParameter", nn.UninitializedParameter),
    ):
        assert name in _names(kind), (
            f"{name} is called otherwise: a parameter that is a part of one, or has no shape yet, "
            "is not refused when the optimizer is made; newton/options.py"
        )


def test_instances_are_of_these_classes() -> None:
    lazy = next(nn.LazyLinear(2).parameters())
    assert "UninitializedParameter" in _names(type(lazy)), "lazy modules; newton/options.py"
    assert not _names(type(nn.Parameter(torch.ones(1)))) & {"DTensor", "FlatParameter"}
