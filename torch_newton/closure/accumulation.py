"""How many backward passes a gradient was accumulated over before the step."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor


class BackwardCalls:
    """Counts the backward passes that filled the parameters' ``.grad`` outside of a step.

    With accumulation over k micro-batches the closure sees the last of them alone, and its
    curvature is a k-th of that of the sum whose gradient has been accumulated.
    """

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self._left: list[tuple[weakref.ref[Tensor], int]] = []
        self._handles: list[Any] = []
        weakref.finalize(self, _remove, self._handles)

    def watch(self, params: Sequence[Tensor]) -> None:
        """Count the passes that reach `params`, as far as they require a gradient."""
        me = weakref.ref(self)

        def count(param: Tensor) -> None:
            counter = me()
            if counter is not None:
                counter.counts[id(param)] = counter.counts.get(id(param), 0) + 1

        for param in params:
            if param.requires_grad:
                handle = param.register_post_accumulate_grad_hook(count)  # type: ignore[no-untyped-call]
                self._handles.append(handle)

    def number(self) -> int:
        """Of the parameter that most passes reached, how many they were."""
        return max(self.counts.values(), default=0)

    def leave(self, params: Sequence[Tensor]) -> None:
        """Note what a step leaves in ``.grad``, and start again at zero."""
        grads = [param.grad for param in params if param.grad is not None]
        self._left = [(weakref.ref(grad), grad._version) for grad in grads]
        self.clear()

    def forgotten(self, params: Sequence[Tensor]) -> bool:
        """Whether ``.grad`` is just what the last step left, so that nobody has zeroed it.

        Who accumulates on purpose has sent other losses backward since, or written there.
        """
        grads = [param.grad for param in params if param.grad is not None]
        if not grads or self.number() > 0 or len(grads) != len(self._left):
            return False
        return all(
            before() is grad and version == grad._version
            for grad, (before, version) in zip(grads, self._left, strict=True)
        )

    def clear(self) -> None:
        """Start again at zero."""
        self.counts.clear()


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
