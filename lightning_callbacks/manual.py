"""The losses of a ``training_step`` that optimizes by itself, one for each optimizer.

Under manual optimization, as of GANs, the step returns no loss: it sends several backward, each for
an optimizer of its own. Here the step runs while its optimizers and schedulers stand still, and
what it sends backward is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from torch_newton.closure.versions import versions_kept

from .batch import training_loss
from .replaced import replaced
from .trainer import trained


def optimizers_apart(trainer: Any, module: Any, loss_given: bool) -> list[int]:
    """The indices of optimizers that are measured each with a loss of its own; empty elsewhere."""
    if loss_given or module.automatic_optimization:
        return []
    return list(range(len(trainer.optimizers)))


def loss_of_optimizer(trainer: Any, module: Any, batch: Any, index: int) -> Tensor | None:
    """The loss that the step sends backward for one optimizer, with its graph.

    The sum of the losses that reach its parameters between its gradients being zero and its step,
    since that is what the step descends: a critic's losses on real and on generated samples are
    often sent backward one by one. All optimizers stand where they are, so that every loss is that
    at the present parameters.

    Args:
        trainer: the trainer.
        module: whose ``training_step`` is evaluated; `undisturbed` must restore it.
        batch: that it gets.
        index: of the optimizer in ``trainer.optimizers``.

    Returns:
        None where nothing was sent backward that depends on its parameters.
    """
    note = Backwards([trained([optimizer]) for optimizer in trainer.optimizers])
    with _standing_still(trainer, module, note), _unmoved(note.parameters):
        training_loss(module, batch)
    return note.loss(index)


class Backwards:
    """Notes what is sent backward, and for which optimizer.

    Args:
        params: the parameters of each optimizer.
    """

    def __init__(self, params: Sequence[Sequence[Tensor]]) -> None:
        self._params = params
        self._sent: list[list[Tensor]] = [[] for _ in params]
        self._stepped: dict[int, list[Tensor]] = {}
        self.parameters: list[Tensor] = list({id(p): p for own in params for p in own}.values())
        for param in self.parameters:  # what is accumulated there is of other batches
            param.grad = None

    def backward(
        self,
        loss: Tensor,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
        """Takes the place of ``loss.backward``: gradients are added up as there, the graph kept."""
        total = loss if gradient is None else (loss * gradient).sum()
        for own, sent in zip(self._params, self._sent, strict=True):
            if all(param.grad is None or not bool(param.grad.any()) for param in own):
                sent.clear()
        among = None if inputs is None else {id(p) for p in _several(inputs)}
        wanted = [
            param
            for param in self.parameters
            if param.requires_grad and (among is None or id(param) in among)
        ]
        grads = torch.autograd.grad(
            total, wanted, retain_graph=True, create_graph=create_graph, allow_unused=True
        )
        reached = set()
        for param, grad in zip(wanted, grads, strict=True):
            if grad is not None:
                reached.add(id(param))
                param.grad = grad if param.grad is None else param.grad + grad
        for own, sent in zip(self._params, self._sent, strict=True):
            if any(id(param) in reached for param in own):
                sent.append(total)

    def stepped(self, index: int) -> None:
        """An optimizer would take its step here."""
        if self._sent[index]:
            self._stepped[index] = list(self._sent[index])

    def loss(self, index: int) -> Tensor | None:
        """What an optimizer's last step descended, or would: a step may be due at a later batch."""
        sent = self._stepped.get(index) or self._sent[index]
        total = None
        for loss in sent:
            total = loss.reshape(()) if total is None else total + loss.reshape(())
        return total


class _Noted(TorchFunctionMode):
    """Sees ``loss.backward()`` where the step does not go through ``manual_backward``."""

    def __init__(self, note: Backwards) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.backward:
            return self._note.backward(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def _standing_still(trainer: Any, module: Any, note: Backwards) -> Iterator[None]:
    """A block in which no optimizer and no scheduler moves, and what is sent backward is noted."""
    with ExitStack() as stack:
        wrapped = _several(module.optimizers())
        for index, pair in enumerate(zip(wrapped, trainer.optimizers, strict=True)):
            for optimizer in pair:
                stack.enter_context(replaced(optimizer, "step", _step(note, index)))
        for config in trainer.lr_scheduler_configs:
            stack.enter_context(replaced(config.scheduler, "step", _nothing))
        stack.enter_context(replaced(module, "manual_backward", note.backward))
        stack.enter_context(_Noted(note))
        yield


def _step(note: Backwards, index: int) -> Callable[..., Any]:
    def step(closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        note.stepped(index)
        return result

    return step


def _several(one_or_more: Any) -> list[Any]:
    return list(one_or_more) if isinstance(one_or_more, (list, tuple)) else [one_or_more]


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass


@contextmanager
def _unmoved(params: Sequence[Tensor]) -> Iterator[None]:
    """A block after which the parameters are what they were, also to a graph made in it.

    A step that clips the weights of its critic would else make autograd believe that the graph is
    of other values.
    """
    before = [param.detach().clone() for param in params]
    with versions_kept(params):
        yield
    for param, values in zip(params, before, strict=True):
        param.data.copy_(values)
