"""The batch on which curvature is measured, and the module's loss on it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DataLoader

from .failures import BatchError

OfBatch = Callable[[Any, Any], Tensor]
"""A function of (module, batch)."""


def probe_batches(trainer: Any, module: Any, probe: Any) -> list[Any]:
    """The batches that `probe` stands for, as the trainer would hand them to ``training_step``.

    Args:
        trainer: the trainer.
        module: its module.
        probe: a batch; a DataLoader, of which all batches are taken; or a callable of the
            module that returns a batch.
    """
    if isinstance(probe, DataLoader):
        batches = list(probe)
    else:
        batches = [probe(module) if callable(probe) else probe]
    return [moved(trainer, module, batch) for batch in batches]


def copy_of(batch: Any) -> Any:
    """A copy of `batch` that shares no memory with it and hangs on no graph.

    A ``training_step`` may pop the targets from the dictionary that it is given, or add noise to
    the inputs in place; a batch may be an object of its own class, as in libraries for graphs.

    Raises:
        BatchError: something in it cannot be copied.
    """

    # deepcopy refuses what hangs on a graph, such as collocation points from a trained sampler.
    # That they require a gradient must stay, since the loss may differentiate in them.
    def detached(tensor: Tensor) -> Tensor:
        return tensor.detach().requires_grad_(tensor.requires_grad)

    try:
        return copy.deepcopy(apply_to_collection(batch, Tensor, detached))
    except Exception as error:  # locks, generators, open files: whatever the batch holds
        raise BatchError(f"the batch cannot be copied: {error}") from error


def moved(trainer: Any, module: Any, batch: Any) -> Any:
    """`batch` as the trainer would hand it to ``training_step``: its dtype, hooks and device."""
    # A copy, since a loader may hand out the same objects to the training, and hooks change them.
    batch = trainer.precision_plugin.convert_input(copy_of(batch))
    batch = module.on_before_batch_transfer(batch, 0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def training_loss(module: Any, batch: Any) -> Tensor | None:
    """The loss of the module's own ``training_step``, None where it skips the batch."""
    arguments = (batch, 0) if takes_batch_index(module) else (batch,)
    output = module.training_step(*arguments)
    if isinstance(output, dict):
        output = output.get("loss")
    if output is None or isinstance(output, Tensor):
        return output
    raise TypeError(
        "training_step must return a tensor, a dict with a 'loss', or None, "
        f"not {type(output).__name__}"
    )


def takes_batch_index(module: Any) -> bool:
    """Whether ``training_step`` wants the index of the batch besides the batch."""
    parameters = list(inspect.signature(module.training_step).parameters.values())
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    return sum(p.kind in positional for p in parameters) >= 2 or any(
        p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters
    )


def takes_dataloader_iterator(module: Any) -> bool:
    """Whether ``training_step`` draws its batches itself."""
    return "dataloader_iter" in inspect.signature(module.training_step).parameters
