"""The first evaluation of a step: the loss with its graph, and the gradient in ``.grad``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..autodiff.nodes import kinds, reachable, saved
from ..autodiff.products import edges_of
from ..linalg.flat import all_finite, filled, flatten, norm, unflatten
from .accumulation import BackwardCalls
from .capture import ClosureError, ClosureWarning, NonFiniteLossError
from .evaluator import Evaluator
from .surrogate import Surrogate

Derivatives = Sequence[Tensor | None]
Differentiate = Callable[[Tensor, Sequence[Tensor]], Derivatives]

FORGOTTEN = (
    "the gradient of the last step is still in .grad when the closure calls loss.backward(), and "
    "this step adds to it: call optimizer.zero_grad() in the closure"
)


SHORT = 0.3
"""Share of its length to which a closure may shorten the gradient in silence. The step is shortened
by as much, so that after n steps the quadratic model still has (1 - share)^n of its distance left,
3 % at 0.3 after ten steps. A sine fitted in 40 steps ends at 5e-10 unclipped and at 0.2 clipped to
a norm of 0.01."""


@dataclass(frozen=True)
class Start:
    """What is known of the point where a step begins.

    Attributes:
        graph: the loss that this process evaluates, a scalar with its graph.
        returned: what the closure returned.
        derivatives: of `graph` in each parameter, where they are made in its graph; None for
            those that have none.
        loss: of the function that the step minimises: L, the mean over the processes, and the
            weight decay.
        gradient: of that function, P entries.
        left: what the closure left in ``.grad``, P entries, zeros for unused parameters; of
            -L where the loss is maximized, like everything here.
        own_gradient: the derivatives as one vector.
        surrogate: the function whose gradient is `gradient`.
        filled: for each parameter, whether the closure left anything in ``.grad``.
    """

    graph: Tensor
    returned: Any
    derivatives: list[GradientEdge | None]
    loss: float
    gradient: Tensor
    left: Tensor
    own_gradient: Tensor
    surrogate: Surrogate
    filled: list[bool]

    def check_finite(self) -> None:
        """Raise where the gradient is not finite.

        Raises:
            NonFiniteLossError: it is not.
        """
        if not all_finite(self.gradient):
            raise NonFiniteLossError(
                "the gradient is not finite although the loss is: look for square roots and "
                "norms at zero, and for overflow; the step changed nothing"
            )


EMBEDDINGS = {"EmbeddingBackward0", "EmbeddingBagBackward0"}
"""Nodes of tables that may divide the gradient of a row by how often it occurs."""


def start(
    evaluator: Evaluator, differentiate: Differentiate, backward_calls: BackwardCalls
) -> Start:
    """Evaluate the closure at the starting point.

    The gradient takes the way that ``loss.backward()`` would: it is added to each ``.grad`` at
    the moment when the closure calls ``backward``, so that what the closure does to ``.grad``
    afterwards, and what it had accumulated there before, counts.

    Args:
        evaluator: of the closure.
        differentiate: computes the derivatives of a loss in the parameters.
        backward_calls: counts the backward passes before the step.

    Raises:
        ClosureError: the closure leaves no loss to work with, or changes the parameters.
        RankError: the processes cannot take a common step.
    """
    params, ranks = evaluator.params, evaluator.ranks
    passes = _BackwardPasses(evaluator, differentiate, backward_calls)
    before = [_version(param.grad) for param in params]
    with evaluator.reporting():
        captured = evaluator.capture_first(passes.add)
        if not captured.called_backward:
            _refuse_filled(params, before)
            for param in params:
                param.grad = None
            passes.add(captured.loss)
        _check(evaluator, passes.derivatives)
    evaluator.note_random_state()
    graph = evaluator.signed(captured.loss)
    loss = ranks.agree(graph.item(), params[0])
    filled_in = [param.grad is not None for param in params]
    left = evaluator.signed(flatten(filled([param.grad for param in params], params)))
    changed = ranks.agree(float(passes.changed()), params[0]) > 0
    own, decay, surrogate = left, evaluator.decay, Surrogate(loss, decay=evaluator.decay)
    if changed or ranks.active:
        own = flatten(filled(passes.derivatives, params)).detach()
    if changed:
        weight = 1 + backward_calls.number() / passes.count
        mean = ranks.mean(own)
        surrogate = Surrogate(loss, weight, left - mean, decay)
        if weight == 1:
            _warn_if_short(evaluator, left, mean)
    # Of what the next evaluation zeroes anyway the vector is a copy, and all that is kept.
    for param in params:
        param.grad = None
    edges = edges_of(passes.derivatives)
    gradient = left if decay is None else left + decay.gradient
    total = loss if decay is None else loss + decay.loss()
    return Start(graph, captured.returned, edges, total, gradient, left, own, surrogate, filled_in)


class _BackwardPasses:
    """The backward passes of the first evaluation, each added to ``.grad`` when it is called."""

    def __init__(
        self,
        evaluator: Evaluator,
        differentiate: Differentiate,
        backward_calls: BackwardCalls,
    ) -> None:
        self._params, self._ranks = evaluator.params, evaluator.ranks
        self._sign, self._once = evaluator.sign, evaluator.once
        self._differentiate, self._backward_calls = differentiate, backward_calls
        self.derivatives: list[Tensor | None] = [None] * len(self._params)
        self.count = 0
        self._accumulating = False
        self._left: list[tuple[int, int] | None] = []

    def add(self, loss: Tensor) -> None:
        """What ``loss.backward()`` does."""
        found = self._derivatives_of(loss if self._sign > 0 else -loss)
        _refuse_sparse(found)
        self._ranks.agree(0.0, self._params[0])
        for i, grad in enumerate(found):
            sofar = self.derivatives[i]
            if grad is not None:
                self.derivatives[i] = grad if sofar is None else sofar + grad
        if self.count == 0:
            self._accumulating = any(_nonzero(param.grad) for param in self._params)
            if not self._accumulating:
                self._backward_calls.clear()
            elif self._backward_calls.forgotten(self._params):
                self._once("zero_grad", FORGOTTEN, ClosureWarning)
        self.count += 1
        self._accumulate(found)
        self._left = self._versions()

    def _derivatives_of(self, loss: Tensor) -> Derivatives:
        """The derivatives of a loss, which a reentrant checkpoint does not spoil.

        Such a checkpoint has a graph only within ``loss.backward()``: to ``torch.autograd.grad``
        the parameters behind it are unused, or it is an error if others lie behind it.
        """
        try:
            found = self._differentiate(loss, self._params)
        except RuntimeError as error:
            _refuse_checkpoint(loss, error)
            raise
        if any(grad is None for grad in found):
            _refuse_checkpoint(loss)
        return found

    def changed(self) -> bool:
        """Whether ``.grad`` holds more than the gradient of the losses that were sent backward."""
        return self._accumulating or self._left != self._versions()

    def _versions(self) -> list[tuple[int, int] | None]:
        return [_version(param.grad) for param in self._params if param.grad is not None]

    def _accumulate(self, grads: Derivatives) -> None:
        """Add to each ``.grad``, and average them over the ranks where DDP would."""
        for param, grad in zip(self._params, grads, strict=True):
            if grad is not None:
                mine = grad.detach() if self._sign > 0 else -grad.detach()
                param.grad = mine.clone() if param.grad is None else param.grad + mine
        if not (self._ranks.active and self._ranks.synchronised):
            return
        sums = filled([param.grad for param in self._params], self._params)
        used = torch.tensor([float(param.grad is not None) for param in self._params])
        mean = self._ranks.mean(flatten([*sums, used.to(sums[0])]))
        pieces = unflatten(mean, [*self._params, used])
        for param, piece, share in zip(self._params, pieces, pieces[-1].tolist(), strict=False):
            if share > 0:
                param.grad = piece.clone()


def _check(evaluator: Evaluator, derivatives: Derivatives) -> None:
    if all(grad is None for grad in derivatives):
        raise ClosureError(
            "the loss does not depend on any parameter that the optimizer was given: was "
            "the model replaced or copied after the optimizer was made?"
        )
    if not evaluator.snapshot.point.unmoved():
        raise ClosureError(
            "the closure changes the parameters in place, but only step() may move them: "
            "clamp or normalise them after step(), or in the model's forward pass"
        )
    evaluator.ranks.check()


def _warn_if_short(evaluator: Evaluator, left: Tensor, gradient: Tensor) -> None:
    """Warn once where the closure has clipped the gradient, or scaled it, to a small part."""
    share = norm(left) / (norm(gradient) or 1.0)
    if 0 < share < SHORT:
        evaluator.once(
            "short",
            f"the closure shortens the gradient to {share:.1g} of its length, as by clipping, and "
            "the step becomes as much shorter. Newton's steps need no clipping, because one that "
            "raises the loss is refused: leave it out",
            ClosureWarning,
        )


def _refuse_filled(params: Sequence[Tensor], before: Sequence[tuple[int, int] | None]) -> None:
    if any(_filled(p.grad, v) for p, v in zip(params, before, strict=True)):
        raise ClosureError(
            "the closure filled .grad without calling loss.backward(), probably by "
            "torch.autograd.backward(loss), which frees the graph that the Newton step "
            "needs: write loss.backward() instead"
        )


def _refuse_checkpoint(loss: Tensor, error: RuntimeError | None = None) -> None:
    if loss.grad_fn is not None and kinds([loss.grad_fn])["CheckpointFunctionBackward"]:
        raise ClosureError(
            "the model runs torch.utils.checkpoint with use_reentrant=True, which hides the "
            "parameters within from the Newton step: pass use_reentrant=False"
        ) from error


def refuse_counting(loss: Tensor) -> None:
    """Of embeddings that divide the gradient of each row by how often it occurs.

    What they leave is the gradient of no function, and no step made of it minimises the loss.

    Raises:
        ClosureError: there is one in the graph of the loss.
    """
    roots = [] if loss.grad_fn is None else [loss.grad_fn]
    if not EMBEDDINGS & kinds(roots).keys():
        return
    if any(n.name() in EMBEDDINGS and saved(n, "scale_grad_by_freq") for n in reachable(roots)):
        raise ClosureError(
            "an embedding with scale_grad_by_freq=True divides its gradient, which is then not "
            "that of the loss: make the layer with scale_grad_by_freq=False"
        )


def _refuse_sparse(grads: Derivatives) -> None:
    if any(grad is not None and grad.layout is not torch.strided for grad in grads):
        raise ClosureError(
            "a gradient is sparse, but a Newton step moves every parameter: make the layer with "
            "sparse=False (nn.Embedding, nn.EmbeddingBag)"
        )


def _version(grad: Tensor | None) -> tuple[int, int] | None:
    return None if grad is None else (id(grad), grad._version)


def _nonzero(grad: Tensor | None) -> bool:
    return grad is not None and bool(grad.any())


def _filled(grad: Tensor | None, before: tuple[int, int] | None) -> bool:
    """Whether somebody has written to `grad` since, and more than the zeros of zero_grad."""
    return _version(grad) != before and _nonzero(grad)
