"""The gradient and the Hessian of a module's loss, also where autograd has no second derivative."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.overrides import TorchFunctionMode

from torch_newton import LinearOperator
from torch_newton.autodiff.finite_difference import finite_difference_hessian, gradient_alone
from torch_newton.autodiff.products import (
    check_twice_differentiable,
    differentiable_gradient,
    edges_of,
    hessian_from_gradient,
    nodes_of,
)
from torch_newton.closure.double_backward import TWINS
from torch_newton.linalg.flat import filled, flatten, unflatten
from torch_newton.linalg.operators import in_dtype
from torch_newton.linalg.precision import at_least_single

from .bounded import first_vector
from .failures import EXHAUSTED
from .start import Start

Warn = Callable[..., None]
GradientAt = Callable[[Tensor], Tensor]
"""Maps a vector of P entries to the gradient at the current parameters plus it."""


class Evaluation(TorchFunctionMode):
    """Puts kernels that can be differentiated twice in place of others.

    Attributes:
        altered: whether a hook that the model put on a tensor has changed a gradient, so that what
            comes out of a backward pass is none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.altered = False

    def _noting(self, hook: Callable[[Tensor], Tensor | None]) -> Callable[[Tensor], Tensor | None]:
        def noting(grad: Tensor) -> Tensor | None:
            result = hook(grad)
            if result is not None and not torch.equal(result.detach(), grad.detach()):
                self.altered = True
            return result

        return noting

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.register_hook and len(args) == 2:
            args = (args[0], self._noting(args[1]))
        twin = TWINS.get(func)
        if twin is None:
            return func(*args, **(kwargs or {}))
        with twin():
            return func(*args, **(kwargs or {}))


@contextmanager
def differentiable_twice() -> Iterator[Evaluation]:
    """A block in which a module is evaluated by kernels that can be differentiated twice.

    Those of attention and recurrent networks, as in RegNewton's own evaluations; and what was
    compiled runs as it was written.
    """
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # without it nothing can have been compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield stack.enter_context(Evaluation())


class Derivatives:
    """The gradient of a loss, and its Hessian when somebody asks for it.

    Args:
        loss: a scalar with its graph.
        params: the P parameters.
        gradient_at: for differences of gradients.
        warn: called where differences of gradients are taken.
        before: those of the same loss at the same point, of which the graph is gone: what was
            learnt about the second derivative then holds now.
        start: of Lanczos processes, whose product is tried when somebody asks for the Hessian, and
            kept; None where it need not be kept.

    Attributes:
        gradient: as a vector, P entries.
        tried: H times the start, until somebody takes it.
    """

    def __init__(
        self,
        loss: Tensor,
        params: Sequence[Tensor],
        gradient_at: GradientAt,
        warn: Warn,
        *,
        before: Derivatives | None = None,
        start: Start | None = None,
    ) -> None:
        self.params: list[Tensor] = list(params)
        self._gradient_at, self._warn, self._start = gradient_at, warn, start
        self._loss: Tensor | None = loss
        self._reason: Exception | None = None
        self._tried: bool = before is not None and before._tried
        self.tried: Tensor | None = None
        try:
            if before is not None and before._reason is not None:
                raise before._reason
            grads: Sequence[Tensor | None] = differentiable_gradient(loss, self.params)
            check_twice_differentiable(nodes_of(loss), grads)
            if any(g is not None and g.layout is not torch.strided for g in grads):
                raise RuntimeError("a gradient is sparse, and has no derivative of its own")
        except EXHAUSTED:
            raise
        except RuntimeError as error:
            self._reason = error
            grads = tuple(gradient_alone(loss, self.params))
        # Where they are made in the graph: the values are needed once, as a vector.
        self._edges: Sequence[GradientEdge | None] | None = edges_of(grads)
        gradient = as_vector(grads, self.params)
        self.gradient: Tensor = gradient.to(at_least_single(gradient.dtype))

    def hessian(self) -> tuple[LinearOperator, float]:
        """H as products, P x P, and the unit of rounding of these where it exceeds the dtype's.

        A product is tried first: whether the graph can be differentiated twice is seen then.
        """
        if self._reason is None:
            try:
                return self._usable(hessian_from_gradient(self._graph(), self.params)), 0.0
            except EXHAUSTED:
                raise
            except RuntimeError as error:
                self._reason = error
        first = str(self._reason).strip().splitlines()[0]
        self._warn(
            "products with the Hessian are taken by differences of gradients, which are accurate "
            f"to few digits, because autograd has no second derivative here: {first}",
            "finite differences",
        )
        H = self._usable(finite_difference_hessian(self._gradient_at, self.params))
        return H, float(torch.finfo(self.params[0].dtype).eps ** (2 / 3))

    def release(self) -> None:
        """Give up the graph; what was learnt about the second derivative stays."""
        self._edges, self._loss = None, None

    def release_second(self) -> None:
        """Give up the graph of the gradient, which is made again if `hessian` is called."""
        self._edges = None

    def _graph(self) -> Sequence[GradientEdge | None]:
        """Where the gradient is made in its graph."""
        if self._edges is None:
            assert self._loss is not None  # it was not released
            self._edges = edges_of(differentiable_gradient(self._loss, self.params))
        return self._edges

    def _usable(self, H: LinearOperator) -> LinearOperator:
        """The same operator, with the first product of the Lanczos process taken if none was.

        Its vectors are in single precision at least: a Lanczos process in half precision would
        add its own rounding to that of the products, and PyTorch has no decompositions there.
        """
        H = in_dtype(H, at_least_single(H.dtype))
        if self._tried:
            return H
        product = H @ (first_vector(H) if self._start is None else self._start(H))
        self._tried = True
        self.tried = None if self._start is None else product
        return H

    def take_tried(self) -> Tensor | None:
        """`tried`, which is not kept any longer."""
        product, self.tried = self.tried, None
        return product


def as_vector(grads: Sequence[Tensor | None], params: Sequence[Tensor]) -> Tensor:
    """Gradients as one vector of P entries; zeros for unused parameters, sparse ones made dense."""
    dense = [g.to_dense() if g is not None and g.layout is not torch.strided else g for g in grads]
    return flatten(filled(dense, params)).detach()


@contextmanager
def moved_by(params: Sequence[Tensor], v: Tensor) -> Iterator[None]:
    """A block in which a vector of P entries is added to the parameters.

    Through .data, which leaves the version counter alone: a graph made before still holds.
    """
    before = [param.detach().clone() for param in params]
    try:
        for param, piece in zip(params, unflatten(v, list(params)), strict=True):
            param.data.add_(piece)
        yield
    finally:
        for param, values in zip(params, before, strict=True):
            param.data.copy_(values)
