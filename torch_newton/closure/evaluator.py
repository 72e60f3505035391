"""The closure of one step as a function of where the parameters are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from ..linalg.flat import unflatten
from ..warning import Once, warn
from .accumulation import BackwardCalls
from .capture import Captured, Closure, ClosureWarning, NonFiniteLossError, capture
from .distributed import RankError, Ranks
from .random_state import RandomState
from .snapshots import Buffers, Snapshot
from .undefined import is_fatal, undefined
from .versions import versions_kept
from .weight_decay import WeightDecay

Result = TypeVar("Result")


class Evaluator:
    """A closure over `params`, evaluated at several points on the same terms.

    Every evaluation within a step starts from the same random state and the same buffers, so
    that it draws the same dropout mask; after the step these are as if the closure had run once.
    (Python's and NumPy's generators are set back within the step if its first evaluation drew
    from them.)

    Args:
        closure: the user's.
        params: the P parameters that the step moves.
        maximize: whether to take the loss with the opposite sign.
        weight_decay: of each parameter; None where none has any.
        double_backward: whether the graph should be one that can be differentiated twice.
        backward_calls: counts the backward passes before the step; restored with the rest.
        once: gives warnings; a new one where none is given.

    Attributes:
        calls: evaluations so far.
        tests: those of them that the step did not need, and that count for no decision.
        sign: 1, or -1 where the loss is maximized.
        ranks: the processes that share the step.
        snapshot: everything as it was before the step.
        once: gives warnings.
        decay: the term that a step minimises besides; None where there is none.
    """

    def __init__(
        self,
        closure: Closure | None,
        params: Sequence[Tensor],
        *,
        maximize: bool = False,
        weight_decay: Sequence[float] | None = None,
        double_backward: bool = True,
        backward_calls: BackwardCalls | None = None,
        once: Once | None = None,
    ) -> None:
        self.closure = closure
        self.params: list[Tensor] = list(params)
        self.calls: int = 0
        self.tests: int = 0
        self.sign: float = -1.0 if maximize else 1.0
        self.ranks: Ranks = Ranks()
        self.snapshot: Snapshot = Snapshot(
            params,
            BackwardCalls() if backward_calls is None else backward_calls,
            self.ranks.examine if self.ranks.distributed else None,
        )
        self.decay = None
        if weight_decay is not None:
            self.decay = WeightDecay(weight_decay, self.params, self.snapshot.point.vector)
        self._double_backward = double_backward
        self.once: Once = Once() if once is None else once
        self._after = self._drawn = self.snapshot.random

    def signed(self, value: Tensor) -> Tensor:
        """A loss or gradient with the sign in which it is minimised."""
        return value if self.sign > 0 else -value

    def capture_first(self, on_backward: Callable[[Tensor], None]) -> Captured:
        """Run the closure where the parameters are, and note the buffers that it changes."""
        self.calls += 1
        with self.snapshot.buffers:
            return capture(self.closure, on_backward, double_backward=self._double_backward)

    def note_random_state(self) -> None:
        """Remember the generators as the first evaluation left them, and which it drew from."""
        self._after = RandomState.now(self.params)
        self._drawn = self.snapshot.random.unlike(self._after)

    def loss_at(self, direction: Tensor, *, at_start: bool = False) -> tuple[float, Tensor | None]:
        """The loss at the starting point plus `direction`.

        Args:
            direction: P entries.
            at_start: whether an exception is an error, as it is where `direction` is zero, and no
                sign that `direction` leads to where the loss is not defined.

        Returns:
            The mean over the processes, NaN where it is not finite; and the loss of this process
            with its graph, where that mean is finite.
        """

        def evaluate() -> Tensor | None:
            captured = self._captured(self._leave_a_gradient, at_start=at_start)
            return None if captured is None else self.signed(captured.loss)

        graph = self._at(direction, evaluate)
        own = math.nan if graph is None else graph.item()
        value = self.ranks.agree(own, self.params[0])
        return value, graph if math.isfinite(value) else None

    def _leave_a_gradient(self, loss: Tensor) -> None:
        """In place of ``loss.backward()`` at a trial point: a closure that clips gradients by value
        needs to find them, whatever they are. The end of the step puts the real ones there.
        """
        for param in self.params:
            if param.grad is None:
                param.grad = torch.zeros_like(param)

    def gradient_at(self, direction: Tensor) -> Tensor:
        """The gradient of this process's loss at the start plus `direction`, P entries.

        NaN where the loss is not finite.
        """
        total = torch.zeros_like(direction)

        def add(loss: Tensor) -> None:
            grads = torch.autograd.grad(
                self.signed(loss), self.params, allow_unused=True, materialize_grads=True
            )
            sizes = [grad.numel() for grad in grads]
            for piece, grad in zip(total.split_with_sizes(sizes), grads, strict=True):
                piece.add_(grad.reshape(-1))

        def evaluate() -> None:
            captured = self._captured(add)
            if captured is None:
                total.fill_(math.nan)
            elif not captured.called_backward:
                add(captured.loss)

        self._at(direction, evaluate)
        return total

    def _captured(
        self, on_backward: Callable[[Tensor], None] | None = None, *, at_start: bool = False
    ) -> Captured | None:
        """The closure's loss at a trial point; None where it is not finite or not defined."""
        within: list[Exception] = []

        def guarded(loss: Tensor) -> None:
            assert on_backward is not None
            try:
                on_backward(loss)
            except Exception as error:  # autograd's, not the closure's
                within.append(error)
                raise

        try:
            return capture(
                self.closure,
                None if on_backward is None else guarded,
                double_backward=self._double_backward,
            )
        except NonFiniteLossError:
            return None
        except Exception as error:
            if at_start or within or is_fatal(error):
                raise
            self.once("exception", undefined(error), ClosureWarning)
            return None

    @contextmanager
    def testing(self) -> Iterator[None]:
        """Count the evaluations within the block among `tests`, too."""
        calls = self.calls
        try:
            yield
        finally:
            self.tests += self.calls - calls

    def check_repeatable(self, loss: float) -> None:
        """Warn where a second evaluation at the starting point gives another loss than `loss`.

        And where a hook changes what autograd computes for a parameter.
        """
        if any(param._backward_hooks for param in self.params):
            warn(
                "a hook that was registered on a parameter (Tensor.register_hook) also acts on "
                "every product with the Hessian, and spoils them unless it is linear: change "
                "gradients in the closure, after loss.backward()"
            )
        again, _ = self.loss_at(torch.zeros_like(self.snapshot.point.vector), at_start=True)
        # Kernels that add in a varying order repeat a loss to a few units of rounding times the
        # square root of the number of terms; another batch gives another loss in the first digits.
        tolerance = max(1e-4, torch.finfo(self.params[0].dtype).eps ** 0.5)
        if not abs(again - loss) <= tolerance * max(abs(again), abs(loss)):
            warn(
                f"the closure gave the loss {loss:g}, and {again:g} when it was evaluated "
                "again at the same parameters with the same random state. A step compares losses "
                "of one batch: take the batch from the loader before the step, outside the "
                "closure, and let the closure change nothing that the loss depends on",
                ClosureWarning,
            )

    def finish(self, direction: Tensor | None, gradient: Tensor, filled: Sequence[bool]) -> None:
        """Move by `direction`, where one was accepted, and leave ``.grad`` and the random state
        as one run of the closure would have.

        Args:
            direction: P entries; None to stay.
            gradient: P entries, with the sign in which the loss is minimised.
            filled: for each parameter, whether the closure left anything in ``.grad``.

        Raises:
            RankError: another process has failed, and has not moved.
        """
        self.ranks.agree(0.0, self.params[0])
        pieces = unflatten(gradient, self.params)
        for param, piece, has_grad in zip(self.params, pieces, filled, strict=True):
            param.grad = torch.empty_like(param).copy_(self.signed(piece)) if has_grad else None
        self._after.restore()
        if direction is not None:
            self.snapshot.point.move(direction)
            self.snapshot.point.leave()

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Let the other processes know of an exception: they wait for what was to be sent."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, RankError):
                self.ranks.report(self.params[0])
            raise

    def _at(self, direction: Tensor, evaluate: Callable[[], Result]) -> Result:
        self._drawn.restore()
        self.calls += 1
        snapshot = self.snapshot
        after = snapshot.buffers.now()
        snapshot.buffers.restore()
        snapshot.trial_buffers = Buffers()
        try:
            snapshot.point.move(direction)
            # A closure that clamps its parameters without effect makes autograd believe that the
            # graph at the start is of other values; all are put back.
            unchanged = versions_kept(self.params)
            with self.reporting(), snapshot.trial_buffers, unchanged:
                return evaluate()
        finally:
            snapshot.point.restore()
            snapshot.trial_buffers.restore()
            after.restore()
            for param in self.params:
                param.grad = None
