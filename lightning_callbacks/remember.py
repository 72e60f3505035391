"""Note what a module holds, so that it can be put back as it was.

An evaluation of ``training_step`` changes more than buffers. Each kind of thing below is here
because a kind of module that people write trains differently, or reports other metrics, without it;
`tests/callbacks/test_remember.py` has one of each. What objects of other classes keep inside
themselves is out of reach: copying it would need to know how they are made.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Undo = Callable[[], None]


def remember(root: Any) -> Undo:
    """Note the state of all that `root` holds; the callable returned restores it.

    Modules, tensors, generators, NumPy's arrays and the built-in containers are followed however
    they are nested, and restored in place where they changed. Until then a copy of every tensor is
    held, as much memory as a checkpoint of the module without its optimizer.
    """
    undos: list[Undo] = []
    seen: set[int] = set()
    stack = [root]
    while stack:
        thing = stack.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        undo = _undo_of(thing)
        if undo is not None:
            undos.append(undo)
        stack += _held_by(thing)

    def undo_all() -> None:
        for restore in reversed(undos):
            restore()

    return undo_all


def _held_by(thing: Any) -> list[Any]:
    """What must be remembered besides `thing` itself."""
    if isinstance(thing, nn.Module):
        # Its parameters, buffers, submodules, flags and other attributes. One entered here may be
        # a torchmetric in a plain dictionary, which module.modules() does not list.
        return [vars(thing)]
    if isinstance(thing, Tensor):
        # A training_step that calls backward() itself adds to it.
        return [thing.grad] if thing.is_leaf and thing.grad is not None else []
    if isinstance(thing, dict):
        return list(thing.values())
    if isinstance(thing, (list, deque, tuple)):
        # Shadow weights in a list, or the states (h, c) of an LSTM, updated in place.
        return list(thing)
    return []


def _undo_of(thing: Any) -> Undo | None:
    """The callable that restores `thing` itself; None where that cannot change."""
    if isinstance(thing, Tensor):
        return _remember_tensor(thing)  # running means, the state of torchmetrics
    if isinstance(thing, (list, deque)):
        return remember_contents(thing, thing.extend)  # outputs kept for the end of the epoch
    if isinstance(thing, (dict, set)):
        return remember_contents(thing, thing.update)  # attributes, counters; samples seen
    if isinstance(thing, torch.Generator):
        return _remember_state(thing.get_state, thing.set_state)  # noise of its own
    if type(thing) is random.Random:  # SystemRandom has no state
        return _remember_state(thing.getstate, thing.setstate)
    return _undo_of_numpy(thing)


def _undo_of_numpy(thing: Any) -> Undo | None:
    numpy = sys.modules.get("numpy")  # a module that holds something of NumPy's has imported it
    if numpy is None:
        return None
    if isinstance(thing, numpy.random.Generator):  # draws collocation points, say
        bits = thing.bit_generator
        return _remember_state(lambda: bits.state, lambda state: setattr(bits, "state", state))
    # Not its subclass memmap: a data set on disk is not to be read at every measurement.
    if type(thing) is numpy.ndarray and thing.flags.writeable:
        return _remember_state(thing.copy, lambda values: numpy.copyto(thing, values))
    return None


def _remember_state(get: Callable[[], Any], put: Callable[[Any], object]) -> Undo:
    state = get()

    def undo() -> None:
        put(state)

    return undo


def remember_contents(thing: Any, refill: Callable[[Any], None]) -> Undo:
    """Which objects a container held, in their order."""
    before = dict(thing) if isinstance(thing, dict) else list(thing)

    def entries(container: Any) -> list[Any]:
        """By identity: equality of tensors is no truth value, and may be costly or raise."""
        pairs = container.items() if isinstance(container, dict) else ((0, x) for x in container)
        return [(key, id(value)) for key, value in pairs]

    known = entries(before)

    def undo() -> None:
        # Left alone if it is unchanged, since subclasses may react to being written to.
        if entries(thing) != known:
            thing.clear()
            refill(before)

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
        # Through .data, which leaves the version counter alone: manual optimization may sum the
        # losses of several batches, and their graph refuses tensors with another version.
        if values is not None:
            thing.data.copy_(values)

    return undo


def _writable(thing: Tensor) -> bool:
    """Whether its entries have places of their own, unlike those of a mask expanded from one.

    A sparse adjacency matrix that is compressed by rows or columns has no strides.
    """
    if thing.layout is not torch.strided:
        return False
    return all(
        step != 0 or size <= 1 for step, size in zip(thing.stride(), thing.shape, strict=True)
    )
