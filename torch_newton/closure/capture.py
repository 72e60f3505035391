"""The loss of an ordinary training closure, with its autograd graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .double_backward import TWINS

Closure = Callable[[], Any]


class ClosureError(RuntimeError):
    """The closure cannot be used for a Newton step; the message says how to change it."""


class ClosureWarning(UserWarning):
    """The closure works, but probably not as its author means it."""


class NonFiniteLossError(ClosureError):
    """The loss, or its gradient, is NaN or infinite."""


@dataclass(frozen=True)
class Captured:
    """What one run of a closure gave.

    Attributes:
        loss: a finite scalar with its graph.
        returned: what the closure returned.
        called_backward: whether the closure called ``loss.backward()``.
    """

    loss: Tensor
    returned: Any
    called_backward: bool


def capture(
    closure: Closure | None,
    on_backward: Callable[[Tensor], None] | None = None,
    *,
    double_backward: bool = True,
) -> Captured:
    """Run `closure` once and keep its loss with the graph, withholding ``loss.backward()``.

    ``Tensor.backward`` is met by a `TorchFunctionMode`, so that the graph is neither consumed
    nor anyone's ``.grad`` touched. This serves the usual closure, which calls ``zero_grad`` and
    ``backward``; one that only returns the loss; and Lightning's, which returns it detached.
    Where a closure calls ``backward`` several times, the loss is the sum, as for gradients.

    Args:
        closure: takes no arguments.
        on_backward: called in place of ``loss.backward()``, with the loss.
        double_backward: whether to evaluate attention and recurrent networks by kernels that
            can be differentiated twice, rather than by the fastest.

    Raises:
        ClosureError: no closure was given, or it leaves no loss to work with: it neither calls
            ``backward`` nor returns a loss with a graph; it calls ``torch.autograd.backward``;
            the loss is not a real finite scalar; it asks an exhausted iterator for a batch.
    """
    if closure is None:
        raise ClosureError(
            "step() needs a closure, because the loss is evaluated more than once: define "
            "closure() as zero_grad, loss.backward(), return loss, and call "
            "optimizer.step(closure). Trainers that call step() without one need a few lines "
            "more: see examples/clients for Hugging Face's Trainer, Ignite and accelerate. "
            "DeepSpeed and a GradScaler (Lightning's precision='16-mixed') cannot be used: take "
            "DistributedDataParallel (strategy='ddp') and 'bf16-mixed' or full precision"
        )
    if not callable(closure):
        raise ClosureError(f"step() needs a callable closure, not {type(closure).__name__}")
    if torch.is_inference_mode_enabled():
        raise ClosureError(
            "step() was called under torch.inference_mode(), where no graph can be made: leave it"
        )
    mode = _WithholdBackward(on_backward, TWINS if double_backward else {})
    try:
        with torch.enable_grad(), mode:
            returned = closure()
    except StopIteration as error:
        raise ClosureError(
            "the closure asked an exhausted iterator for a batch. A step evaluates the closure "
            "several times: take the batch from the loader before the step, outside the closure"
        ) from error
    if mode.losses:
        return Captured(sum(mode.losses[1:], mode.losses[0]), returned, True)
    if not isinstance(returned, Tensor) or not returned.requires_grad:
        raise ClosureError(
            "the closure neither called loss.backward() nor returned a loss with a graph. "
            "torch.autograd.backward(loss) cannot be seen: write loss.backward() instead; "
            "and do not compute the loss under torch.no_grad() or from detached tensors"
        )
    _check(returned)
    return Captured(returned, returned, False)


@dataclass
class _WithholdBackward(TorchFunctionMode):
    on_backward: Callable[[Tensor], None] | None
    twins: Mapping[Any, Callable[[], AbstractContextManager[Any]]]
    losses: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.backward:
            twin = self.twins.get(func)
            if twin is None:
                return func(*args, **(kwargs or {}))
            with twin():
                return func(*args, **(kwargs or {}))
        loss = _weighted(*args, **(kwargs or {}))
        _check(loss)
        self.losses.append(loss)
        if self.on_backward is not None:
            self.on_backward(loss)
        return None


def _weighted(
    loss: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> Tensor:
    """The scalar whose gradient ``loss.backward(...)``, called with these arguments, computes."""
    if inputs is not None:
        raise ClosureError(
            "loss.backward(inputs=...) is not supported: give the optimizer just the parameters "
            "that it should train and call loss.backward()"
        )
    return loss if gradient is None else (loss * gradient).sum()


def _check(loss: Tensor) -> None:
    if loss.numel() != 1:
        raise ClosureError(
            f"the loss must be a scalar, not of shape {tuple(loss.shape)}: "
            "reduce it with .mean() or .sum()"
        )
    if loss.is_complex():
        raise ClosureError("the loss is complex: minimise a real number, for instance loss.abs()")
    if not loss.requires_grad:
        raise ClosureError(
            "loss.backward() was called on a loss without a graph: do not compute it under "
            "torch.no_grad() or from detached tensors, and leave some parameter trainable"
        )
    if not math.isfinite(loss.item()):
        raise NonFiniteLossError(
            f"the loss is {loss.item()}: check the data for NaN and infinite values, and the "
            "model for overflow; the step changed nothing"
        )
