"""Evaluate a LightningModule beside its training, and leave no trace of it."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Undo = Callable[[], None]


class Silent:
    """Answers every use with itself: what stands in for a logger while nothing shall be logged."""

    def __getattr__(self, name: str) -> Silent:
        return self

    def __getitem__(self, key: Any) -> Silent:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Silent:
        return self


@contextmanager
def undisturbed(trainer: Any, module: Any, seed: int) -> Iterator[None]:
    """A block in which `module` may run, after which it and the random state are as before.

    Within, random numbers start from `seed`, so that dropout draws the same mask every time;
    ``self.log`` and the trainer's loggers swallow what they are given. Afterwards are put back:
    the generators of PyTorch (CPU and CUDA), NumPy and Python; parameters, buffers, gradients
    and flags; every attribute of every submodule, torchmetrics included, and the contents of
    lists, dictionaries and sets among them. What an attribute of another class keeps inside
    itself is out of reach.
    """
    loggers = trainer.loggers
    with _random_state_of_its_own(seed):
        undo = remember(module)
        try:
            trainer.loggers = [Silent() for _ in loggers]
            for part in module.modules():
                # An attribute of the instance hides the method of its class.
                for name in ("log", "log_dict"):
                    if callable(getattr(part, name, None)):
                        vars(part)[name] = _log_nothing
            yield
        finally:
            undo()
            trainer.loggers = loggers


def _log_nothing(*args: Any, **kwargs: Any) -> None:
    pass


@contextmanager
def _random_state_of_its_own(seed: int) -> Iterator[None]:
    numpy = sys.modules.get("numpy")
    python_state = random.getstate()
    numpy_state = None if numpy is None else numpy.random.get_state()
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        try:
            random.seed(seed)
            torch.manual_seed(seed)
            if numpy is not None:
                numpy.random.seed(seed)
            yield
        finally:
            random.setstate(python_state)
            if numpy is not None:
                numpy.random.set_state(numpy_state)


def remember(root: Any) -> Undo:
    """Note the state of all that `root` holds; the callable returned restores it.

    Objects are restored in place where their contents changed: modules, tensors, generators and
    the built-in containers, however nested.
    """
    undos: list[Undo] = []
    seen: set[int] = set()
    stack = [root]
    while stack:
        thing = stack.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, nn.Module):
            stack.append(vars(thing))
        elif isinstance(thing, Tensor):
            undos.append(_remember_tensor(thing))
            if thing.is_leaf and thing.grad is not None:
                stack.append(thing.grad)
        elif isinstance(thing, torch.Generator):
            undos.append(_remember_generator(thing))
        elif isinstance(thing, dict):
            undos.append(_remember_dict(thing))
            stack += thing.values()
        elif isinstance(thing, (list, deque)):
            undos.append(_remember_list(thing))
            stack += thing
        elif isinstance(thing, set):
            undos.append(_remember_set(thing))
        elif isinstance(thing, tuple):
            stack += thing

    def undo() -> None:
        for restore in reversed(undos):
            restore()

    return undo


def _remember_dict(thing: dict[Any, Any]) -> Undo:
    before = dict(thing)

    def undo() -> None:
        same = list(thing) == list(before)
        if same and all(thing[key] is value for key, value in before.items()):
            return
        for key in [key for key in thing if key not in before]:
            del thing[key]
        thing.update(before)

    return undo


def _remember_list(thing: list[Any] | deque[Any]) -> Undo:
    before = list(thing)

    def undo() -> None:
        if len(thing) != len(before) or any(a is not b for a, b in zip(thing, before, strict=True)):
            thing.clear()
            thing.extend(before)

    return undo


def _remember_set(thing: set[Any]) -> Undo:
    before = set(thing)

    def undo() -> None:
        if thing != before:
            thing.clear()
            thing.update(before)

    return undo


def _remember_generator(thing: torch.Generator) -> Undo:
    state = thing.get_state()

    def undo() -> None:
        thing.set_state(state)

    return undo


def _remember_tensor(thing: Tensor) -> Undo:
    grad = thing.grad if thing.is_leaf else None
    requires_grad = thing.requires_grad
    values = thing.detach().clone() if _writable(thing) else None

    def undo() -> None:
        if thing.is_leaf:
            if thing.requires_grad is not requires_grad:
                thing.requires_grad_(requires_grad)
            if thing.grad is not grad:
                thing.grad = grad
        # Written through .data, which no graph that saw the old values takes for a change.
        if values is not None:
            thing.data.copy_(values)

    return undo


def _writable(thing: Tensor) -> bool:
    """Whether it has entries, each in a place of its own, as an expanded tensor has not."""
    if thing.layout is not torch.strided or thing.device.type == "meta":
        return False
    return all(
        step != 0 or size <= 1 for step, size in zip(thing.stride(), thing.shape, strict=True)
    )
