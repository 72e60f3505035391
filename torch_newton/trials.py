"""The closure of one step, evaluated at several points on the same terms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .closure import Captured, Closure, ClosureError, NonFiniteLossError, capture
from .restore import Buffers, Point, RandomState

Differentiate = Callable[[Tensor, Sequence[Tensor]], Sequence[Tensor | None]]


class Trials:
    """A closure over `params` as a function of where the parameters are.

    Every evaluation within a step starts from the same random state, so that it draws the same
    dropout mask; after the step that state, and the buffers of the modules that ran, are as if
    the closure had run once.
    """

    def __init__(self, closure: Closure | None, params: Sequence[Tensor]) -> None:
        self.closure = closure
        self.params = list(params)
        self.calls = 0
        self.point = Point.now(params)
        self._before = self._after = RandomState.now(params)
        self._buffers = Buffers()
        self._grads: list[Tensor | None] = []

    def first(self, differentiate: Differentiate) -> tuple[Captured, list[Tensor | None]]:
        """Evaluate at the starting point: the loss with its graph, and its gradient.

        The gradient takes the way that ``loss.backward()`` would: it is added to each ``.grad``
        at the moment when the closure calls ``backward``, so that what the closure does to
        ``.grad`` afterwards, and what it had accumulated there before, counts.
        """
        derivatives: list[Tensor | None] = [None] * len(self.params)

        def on_backward(loss: Tensor) -> None:
            for i, grad in enumerate(differentiate(loss, self.params)):
                param = self.params[i]
                if grad is None:
                    continue
                sofar = derivatives[i]
                derivatives[i] = grad if sofar is None else sofar + grad
                known = param.grad
                param.grad = grad.detach().clone() if known is None else known + grad.detach()

        before = [_version(param.grad) for param in self.params]
        self.calls += 1
        with self._buffers:
            captured = capture(self.closure, on_backward)
        if not captured.called_backward:
            if any(_filled(p.grad, v) for p, v in zip(self.params, before, strict=True)):
                raise ClosureError(
                    "the closure filled .grad without calling loss.backward(), probably by "
                    "torch.autograd.backward(loss), which frees the graph that the Newton step "
                    "needs: write loss.backward() instead"
                )
            for param in self.params:
                param.grad = None
            on_backward(captured.loss)
        if all(grad is None for grad in derivatives):
            raise ClosureError(
                "the loss does not depend on any parameter that the optimizer was given: was the "
                "model replaced or copied after the optimizer was made?"
            )
        self._grads = [None if p.grad is None else p.grad.clone() for p in self.params]
        self._after = RandomState.now(self.params)
        return captured, derivatives

    def gradient(self) -> list[Tensor]:
        """What the closure left in ``.grad``, one tensor a parameter, zeros for unused ones."""
        return [
            torch.zeros_like(param) if grad is None else grad
            for grad, param in zip(self._grads, self.params, strict=True)
        ]

    def loss_at(self, direction: Tensor) -> float:
        """The loss at the starting point plus `direction`; NaN where it is not finite."""
        self._before.restore()
        self.calls += 1
        with Buffers() as buffers:
            try:
                self.point.move(direction)
                return capture(self.closure).loss.item()
            except NonFiniteLossError:
                return math.nan
            finally:
                self.point.restore()
                buffers.restore()

    def finish(self, direction: Tensor | None) -> None:
        """Move by `direction`, where one was accepted, and leave ``.grad`` and the random state
        as one run of the closure would have.
        """
        for param, grad in zip(self.params, self._grads, strict=True):
            param.grad = grad
        self._after.restore()
        if direction is not None:
            self.point.move(direction)
            self.point.leave()

    def undo(self) -> None:
        """Put parameters, buffers and random state back as they were before the step."""
        self.point.restore()
        self._buffers.restore()
        self._before.restore()


def _version(grad: Tensor | None) -> tuple[int, int] | None:
    return None if grad is None else (id(grad), grad._version)


def _filled(grad: Tensor | None, before: tuple[int, int] | None) -> bool:
    """Whether somebody has written to `grad` since, and more than the zeros of zero_grad."""
    return grad is not None and _version(grad) != before and bool(grad.any())
