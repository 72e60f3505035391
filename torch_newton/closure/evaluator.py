"""The closure of one step, evaluated at several points on the same terms."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ..linalg.flat import filled, flatten, unflatten
from ..linalg.operators import LinearOperator
from ..preconditioners.function_space import FunctionSpace
from .accumulation import BackwardCalls
from .capture import Captured, Closure, ClosureError, ClosureWarning, NonFiniteLossError, capture
from .distributed import RankError, Ranks
from .random_state import RandomState
from .snapshots import Buffers, Gradients, Modes, Point

Result = TypeVar("Result")
Differentiate = Callable[[Tensor, Sequence[Tensor]], Sequence[Tensor | None]]


class Evaluator:
    r"""A closure over `params` as a function of where the parameters are.

    Every evaluation within a step starts from the same random state and the same buffers, so
    that it draws the same dropout mask; after the step these are as if the closure had run once.
    (Python's and NumPy's generators are set back within the step if its first evaluation drew
    from them.)

    The step is solved with the gradient :math:`g_t` that the closure leaves in ``.grad``. That is
    not always the gradient g of the loss L that it evaluates. Where it was changed, as by
    clipping, losses are those of the function that has it,

    .. math:: F(\theta + d) = L(\theta + d) + (g_t - g)^T d.

    Where it was accumulated over k micro-batches, of which L is the last, the curvature is k times
    that of L, and a change of the loss counts k times: the ratio test then asks of a step that it
    lowers the last micro-batch, too, the only one that can be evaluated. With several processes
    L and g are means over the ranks.

    Args:
        closure: the user's.
        params: the parameters that the step moves.
        maximize: whether to take the loss with the opposite sign.
        double_backward: whether the graph shall be one that can be differentiated twice.
        backward_calls: counts the backward passes before the step.

    Attributes:
        calls: evaluations so far.
        loss: L at the starting point, known after `first`, as are the following.
        gradient: what the closure left in ``.grad``, P entries, zeros for unused parameters.
        own_gradient: that of the loss which this process evaluates.
        ranks: the processes that share the step.
    """

    def __init__(
        self,
        closure: Closure | None,
        params: Sequence[Tensor],
        *,
        maximize: bool = False,
        double_backward: bool = True,
        backward_calls: BackwardCalls | None = None,
    ) -> None:
        self.closure = closure
        self.params = list(params)
        self.calls = 0
        self.loss = math.nan
        self.ranks = Ranks()
        self._sign = -1.0 if maximize else 1.0
        self._double_backward = double_backward
        self._backward_calls = BackwardCalls() if backward_calls is None else backward_calls
        self._counts = dict(self._backward_calls.counts)
        self.point = Point.now(params)
        self._before = self._after = self._drawn = RandomState.now(params)
        self._buffers = Buffers(self.ranks.meet if self.ranks.distributed else None)
        self._trial_buffers = Buffers()
        self._grads_before = Gradients(params)
        self._modes = Modes.now()
        self._grads: list[Tensor | None] = []
        self.gradient = self.own_gradient = torch.empty(0)
        self._weight = 1.0
        self._tilt: Tensor | None = None

    def first(self, differentiate: Differentiate) -> tuple[Captured, list[Tensor | None]]:
        """Evaluate at the starting point: the loss with its graph, and its gradient.

        The gradient takes the way that ``loss.backward()`` would: it is added to each ``.grad``
        at the moment when the closure calls ``backward``, so that what the closure does to
        ``.grad`` afterwards, and what it had accumulated there before, counts.
        """
        derivatives: list[Tensor | None] = [None] * len(self.params)
        passes: list[int] = []
        left: list[tuple[int, int] | None] = []

        def on_backward(loss: Tensor) -> None:
            found = differentiate(self._signed(loss), self.params)
            _refuse_sparse(found)
            self.ranks.agree(0.0, self.params[0])
            for i, grad in enumerate(found):
                sofar = derivatives[i]
                if grad is not None:
                    derivatives[i] = grad if sofar is None else sofar + grad
            if not passes and any(_nonzero(param.grad) for param in self.params):
                left.append(None)  # the closure goes on accumulating
            elif not passes:
                self._backward_calls.clear()
            passes.append(1)
            self._accumulate(found)
            left[:] = [mark for mark in left if mark is None]
            left.extend(_version(param.grad) for param in self.params if param.grad is not None)

        before = [_version(param.grad) for param in self.params]
        self.calls += 1
        try:
            with self._buffers:
                captured = capture(self.closure, on_backward, double_backward=self._double_backward)
            if not captured.called_backward:
                self._refuse_filled(before)
                for param in self.params:
                    param.grad = None
                on_backward(captured.loss)
            if all(grad is None for grad in derivatives):
                raise ClosureError(
                    "the loss does not depend on any parameter that the optimizer was given: was "
                    "the model replaced or copied after the optimizer was made?"
                )
            if not self.point.unmoved():
                raise ClosureError(
                    "the closure changes the parameters in place, but only step() may move them: "
                    "clamp or normalise them after step(), or in the model's forward pass"
                )
            self.ranks.check()
        except Exception as error:
            self._tell(error)
            raise
        loss = self._signed(captured.loss)
        self.loss = self.ranks.agree(loss.item(), self.params[0])
        self._keep_gradient()
        self._after = RandomState.now(self.params)
        self._drawn = self._before.unlike(self._after)
        now = [_version(param.grad) for param in self.params if param.grad is not None]
        changed = self.ranks.agree(float(left != now), self.params[0]) > 0
        self.own_gradient = self.gradient
        if changed or self.ranks.active:
            self.own_gradient = flatten(filled(derivatives, self.params)).detach()
        if changed:
            self._weigh(len(passes))
        return Captured(loss, captured.returned, captured.called_backward), derivatives

    def curvature(self, A: LinearOperator) -> LinearOperator:
        """The curvature of F, given that of the loss which this process evaluates."""
        mean = self.ranks.averaged(A)
        return mean if self._weight == 1 else self._weight * mean

    def space(self, space: FunctionSpace | None) -> FunctionSpace | None:
        """The function space of F, given that of the loss which this process evaluates."""
        joined = self.ranks.joined(space, self.params[0])
        if joined is None or self._weight == 1:
            return joined
        return joined.times(math.sqrt(self._weight))

    def loss_at(self, direction: Tensor) -> float:
        """F at the starting point plus `direction`; NaN where it is not finite."""
        return self.evaluate_at(direction)[0]

    def evaluate_at(self, direction: Tensor) -> tuple[float, Tensor | None]:
        """The same, and the loss L of this process with its graph, where it is finite."""

        def evaluate() -> Tensor | None:
            try:
                captured = capture(self.closure, double_backward=self._double_backward)
            except NonFiniteLossError:
                return None
            return self._signed(captured.loss)

        graph = self._at(direction, evaluate)
        own = math.nan if graph is None else graph.item()
        loss = self.ranks.agree(own, self.params[0])
        if self._weight != 1:
            return self.loss + self._weight * (loss - self.loss), graph
        return loss if self._tilt is None else loss + float(self._tilt @ direction), graph

    def gradient_at(self, direction: Tensor) -> Tensor:
        """The gradient of the loss that this process evaluates, at the start plus `direction`."""
        total = torch.zeros_like(direction)

        def add(loss: Tensor) -> None:
            grads = torch.autograd.grad(
                self._signed(loss), self.params, allow_unused=True, materialize_grads=True
            )
            total.add_(flatten(grads))

        def evaluate() -> None:
            try:
                captured = capture(self.closure, add, double_backward=self._double_backward)
                if not captured.called_backward:
                    add(captured.loss)
            except NonFiniteLossError:
                total.fill_(math.nan)

        self._at(direction, evaluate)
        return total

    def check_repeatable(self) -> None:
        """Warn where a second evaluation at the same point gives another loss.

        And where a hook changes what autograd computes for a parameter.
        """
        if any(param._backward_hooks for param in self.params):
            warnings.warn(
                "a hook that was registered on a parameter (Tensor.register_hook) also acts on "
                "every product with the Hessian, and spoils them unless it is linear: change "
                "gradients in the closure, after loss.backward()",
                ClosureWarning,
                stacklevel=6,
            )
        again = self.loss_at(torch.zeros_like(self.gradient))
        tolerance = max(1e-4, torch.finfo(self.params[0].dtype).eps ** 0.5)
        if not abs(again - self.loss) <= tolerance * max(abs(again), abs(self.loss)):
            warnings.warn(
                f"the closure gave the loss {self.loss:g}, and {again:g} when it was evaluated "
                "again at the same parameters with the same random state. A step compares losses "
                "of one batch: take the batch from the loader before the step, outside the "
                "closure, and let the closure change nothing that the loss depends on",
                ClosureWarning,
                stacklevel=6,
            )

    def finish(self, direction: Tensor | None) -> None:
        """Move by `direction`, where one was accepted, and leave ``.grad`` and the random state
        as one run of the closure would have.
        """
        for param, grad in zip(self.params, self._grads, strict=True):
            param.grad = grad
        self._after.restore()
        self._backward_calls.clear()
        if direction is not None:
            self.point.move(direction)
            self.point.leave()

    def undo(self) -> None:
        """Put parameters, gradients, buffers and random state back as before the step."""
        self._modes.restore()
        self.point.restore()
        for buffers in (self._trial_buffers, self._buffers):
            buffers.close()
            buffers.restore()
        self._before.restore()
        self._grads_before.restore()
        self._backward_calls.counts.update(self._counts)

    def _signed(self, loss: Tensor) -> Tensor:
        return loss if self._sign > 0 else -loss

    def _at(self, direction: Tensor, evaluate: Callable[[], Result]) -> Result:
        self._drawn.restore()
        self.calls += 1
        after = self._buffers.now()
        self._buffers.restore()
        self._trial_buffers = Buffers()
        try:
            self.point.move(direction)
            with self._trial_buffers:
                return evaluate()
        except Exception as error:
            self._tell(error)
            raise
        finally:
            self.point.restore()
            self._trial_buffers.restore()
            after.restore()

    def _accumulate(self, grads: Sequence[Tensor | None]) -> None:
        """Add to each ``.grad``, and average them over the ranks where DDP would."""
        for param, grad in zip(self.params, grads, strict=True):
            if grad is not None:
                mine = self._signed(grad.detach())
                param.grad = mine.clone() if param.grad is None else param.grad + mine
        if not (self.ranks.active and self.ranks.synchronised):
            return
        sums = filled([param.grad for param in self.params], self.params)
        used = torch.tensor([float(p.grad is not None) for p in self.params])
        mean = self.ranks.mean(flatten([*sums, used.to(sums[0])]))
        pieces = unflatten(mean, [*self.params, used])
        for param, piece, share in zip(self.params, pieces, pieces[-1].tolist(), strict=False):
            if share > 0:
                param.grad = piece.clone()

    def _keep_gradient(self) -> None:
        """Remember what is in ``.grad``, which the next evaluation will zero."""
        self._grads = [None if p.grad is None else p.grad.clone() for p in self.params]
        self.gradient = self._signed(flatten(filled(self._grads, self.params)))

    def _weigh(self, passes: int) -> None:
        """Take account of a ``.grad`` that is not the gradient of the loss alone."""
        self._weight = 1 + self._backward_calls.number() / passes
        self._tilt = self.gradient - self.ranks.mean(self.own_gradient)

    def _refuse_filled(self, before: Sequence[tuple[int, int] | None]) -> None:
        if any(_filled(p.grad, v) for p, v in zip(self.params, before, strict=True)):
            raise ClosureError(
                "the closure filled .grad without calling loss.backward(), probably by "
                "torch.autograd.backward(loss), which frees the graph that the Newton step "
                "needs: write loss.backward() instead"
            )

    def _tell(self, error: Exception) -> None:
        """Let the other ranks, which wait for this one's loss, know that there is none."""
        if not isinstance(error, RankError):
            self.ranks.agree(0.0, self.params[0], failed=True)


def _version(grad: Tensor | None) -> tuple[int, int] | None:
    return None if grad is None else (id(grad), grad._version)


def _nonzero(grad: Tensor | None) -> bool:
    return grad is not None and bool(grad.any())


def _filled(grad: Tensor | None, before: tuple[int, int] | None) -> bool:
    """Whether somebody has written to `grad` since, and more than the zeros of zero_grad."""
    return _version(grad) != before and _nonzero(grad)


def _refuse_sparse(grads: Sequence[Tensor | None]) -> None:
    if any(grad is not None and grad.layout is not torch.strided for grad in grads):
        raise ClosureError(
            "a gradient is sparse, but a Newton step moves every parameter: make the layer with "
            "sparse=False (nn.Embedding, nn.EmbeddingBag)"
        )
