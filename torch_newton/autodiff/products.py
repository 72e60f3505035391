"""Gradient, Hessian, Jacobian and Gauss-Newton matrix, from one autograd graph.

One forward pass serves them all: its graph holds batch, dropout mask and batch statistics fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from ..linalg.flat import filled, flatten, unflatten
from ..linalg.operators import LinearOperator, symmetric
from .batched import Batched
from .nodes import kinds

Outputs = Tensor | Sequence[Tensor]
Derivatives = Sequence[Tensor | GradientEdge | None]
"""For each parameter the derivative of a loss, or where it is made in the graph: that is all that
further products need, and spares the memory of P numbers; None for unused parameters."""

COMPILED = "CompiledFunctionBackward"  # what the names of compiled functions' nodes begin with


class NotTwiceDifferentiableError(RuntimeError):
    """The loss has a gradient, but the gradient cannot be differentiated again."""


def gradient(loss: Tensor, params: Sequence[Tensor]) -> Tensor:
    """The gradient of L as one vector of P entries, without a graph of its own.

    Parameters that the loss does not use contribute zeros.
    """
    grads = torch.autograd.grad(
        loss, list(params), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return flatten(grads).detach()


def hessian(loss: Tensor, params: Sequence[Tensor]) -> LinearOperator:
    r"""The exact Hessian of L, P x P, by Hessian-vector products.

    .. math:: H v = \nabla_\theta (\nabla_\theta L \cdot v)

    (Pearlmutter 1994, *Fast exact multiplication by the Hessian*.) Frozen parameters are left
    out by not passing them; unused ones have zero rows and columns.

    Args:
        loss: a scalar with its graph. Do not modify the parameters in place while it is in use.
        params: the P parameters, as tensors of any shapes.

    What autograd gives is not checked, and a few backward passes have a derivative that is wrong
    without an error: that of PyTorch's fused ``weight_norm``, and those of functions whose authors
    did not think of it. `autodiff.verification.verify` tests an operator, as `RegNewton` does.

    Raises:
        NotTwiceDifferentiableError: at the call or at a product, where the graph holds an
            operation without a second derivative; the message names the way out.
    """
    return gradient_and_hessian(loss, params)[1]


def gradient_and_hessian(loss: Tensor, params: Sequence[Tensor]) -> tuple[Tensor, LinearOperator]:
    """The gradient and the Hessian of one loss, which share one backward pass."""
    params = list(params)
    grads = differentiable_gradient(loss, params)
    check_twice_differentiable(nodes_of(loss), grads)
    return flatten(filled(grads, params)).detach(), hessian_from_gradient(grads, params)


def plain_gradient(loss: Tensor, params: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradient of L without a graph of its own; None for unused parameters."""
    try:
        return torch.autograd.grad(loss, list(params), retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        raise _explained(error) from error


def differentiable_gradient(loss: Tensor, params: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradient of L with the graph that its products need; None for unused parameters."""
    try:
        return torch.autograd.grad(loss, list(params), create_graph=True, allow_unused=True)
    except RuntimeError as error:
        raise _explained(error) from error


def check_twice_differentiable(outputs: Sequence[Node], grads: Derivatives) -> None:
    """Raise where the graph of a gradient ends at a backward pass that has no derivative.

    Autograd cuts such a graph off, and would take a product over the rest of it for the whole.
    A compiled function leaves no trace there, but in the graph of what was differentiated.

    Args:
        outputs: the nodes of what was differentiated.
        grads: its derivatives, with their graph.

    Raises:
        NotTwiceDifferentiableError: there is such a node.
    """
    roots = [edge.node for edge in edges_of(grads) if edge is not None]
    if "torch::autograd::Error" in kinds(roots):
        raise NotTwiceDifferentiableError(
            "an operation of the model is marked as differentiable once only (once_differentiable)"
            ": replace it by one whose backward pass autograd can differentiate."
        )
    if any(name.startswith(COMPILED) for name in kinds(list(outputs))):
        raise NotTwiceDifferentiableError(
            "a compiled function cannot be differentiated twice: call the model as it was before "
            "torch.compile (model._orig_mod holds it), and a function likewise."
        )


def edges_of(grads: Derivatives) -> list[GradientEdge | None]:
    """Where in the graph derivatives are made; None for those without a graph."""
    return [
        get_gradient_edge(grad)
        if isinstance(grad, Tensor) and grad.requires_grad
        else grad
        if isinstance(grad, GradientEdge)
        else None
        for grad in grads
    ]


def nodes_of(loss: Tensor) -> list[Node]:
    """The node of a loss, none where it has no graph."""
    return [] if loss.grad_fn is None else [loss.grad_fn]


def hessian_from_gradient(grads: Derivatives, params: Sequence[Tensor]) -> LinearOperator:
    """The Hessian, P x P, whose rows are the derivatives of a gradient.

    Args:
        grads: for each parameter, with its graph; None where the loss does not use it.
        params: the P parameters.
    """
    params = list(params)
    # A loss that is linear in some parameters leaves their gradient without a graph.
    edges = edges_of(grads)
    live = [(i, edge) for i, edge in enumerate(edges) if edge is not None]

    def product(v: Tensor) -> Tensor:
        if not live:
            return torch.zeros_like(v)
        pieces = unflatten(v, params)
        try:
            products = torch.autograd.grad(
                [edge for _, edge in live],
                params,
                [pieces[i] for i, _ in live],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        except RuntimeError as error:
            raise _explained(error) from error
        return flatten(products).detach()

    has_graph = [edge is not None for edge in edges]
    matmat = Batched([edge for _, edge in live], has_graph, params, params, product)
    size = sum(param.numel() for param in params)
    dtype, device = params[0].dtype, params[0].device
    return symmetric(size, product, dtype=dtype, device=device, matmat=matmat)


def jacobian(outputs: Outputs, params: Sequence[Tensor]) -> LinearOperator:
    r"""The Jacobian :math:`J = \partial z / \partial\theta`, R x P, of a network's outputs.

    :math:`J^T u` is a backward pass. It is linear in u, and its derivative with respect to u in
    the direction v is :math:`J v`, so that no forward-mode rules are needed.

    Args:
        outputs: z, with its graph: one tensor or several, R entries in all.
        params: the P parameters, as tensors of any shapes.
    """
    tensors = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    return jacobian_at(list(tensors), [tensor.detach() for tensor in tensors], params)


def jacobian_at(
    outputs: Sequence[Tensor | GradientEdge], like: Sequence[Tensor], params: Sequence[Tensor]
) -> LinearOperator:
    """`jacobian` for outputs inside a graph, where only an edge is at hand.

    Args:
        outputs: the outputs or edges to them, R entries in all.
        like: for each a tensor of its shape.
        params: the P parameters.
    """
    like, params = list(like), list(params)
    # A constant output has no graph, and zero rows. (Autograd takes a mixture of tensors and
    # edges, but its types do not say so.)
    live = [not isinstance(output, Tensor) or output.requires_grad for output in outputs]
    parts: list[Any] = [
        output for output, has_graph in zip(outputs, live, strict=True) if has_graph
    ]
    backward = _Backward(parts, live, like, params)
    return LinearOperator(
        (sum(tensor.numel() for tensor in like), sum(param.numel() for param in params)),
        backward.jvp,
        backward.vjp,
        params[0].dtype,
        params[0].device,
        rmatmat=Batched(parts, live, like, params, backward.vjp),
    )


class _Backward:
    """The backward pass from outputs to parameters, u -> J^T u, and its derivative in u."""

    def __init__(
        self, parts: list[Any], live: list[bool], like: list[Tensor], params: list[Tensor]
    ) -> None:
        self.parts, self.live, self.like, self.params = parts, live, like, params
        self._pass: tuple[Tensor, Sequence[Tensor]] | None = None

    def vjp(self, u: Tensor) -> Tensor:
        """J^T u, P entries."""
        return flatten(self._pulled_back(u, create_graph=False)).detach()

    def jvp(self, v: Tensor) -> Tensor:
        """J v, R entries."""
        if self._pass is None:  # linear in u, so that one graph serves every v
            rows = sum(tensor.numel() for tensor in self.like)
            u = torch.zeros(rows, dtype=v.dtype, device=v.device, requires_grad=True)
            self._pass = u, self._pulled_back(u, create_graph=True)
        u, grads = self._pass
        live = [
            (g, p) for g, p in zip(grads, unflatten(v, self.params), strict=True) if g.requires_grad
        ]
        if not live:
            return torch.zeros_like(u)
        outputs, pieces = zip(*live, strict=True)
        try:
            (product,) = torch.autograd.grad(
                outputs, u, pieces, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        except RuntimeError as error:
            raise _explained(error) from error
        return product.detach()

    def _pulled_back(self, u: Tensor, create_graph: bool) -> Sequence[Tensor]:
        pieces = zip(unflatten(u, self.like), self.live, strict=True)
        return torch.autograd.grad(
            self.parts,
            self.params,
            [piece for piece, has_graph in pieces if has_graph],
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )


def output_hessian(loss: Tensor, outputs: Sequence[Tensor]) -> LinearOperator:
    r"""The Hessian of the loss in the outputs, :math:`Q = \nabla^2_z \ell(z)`, R x R.

    It is what the graph between z and the loss says, so no formula of the loss is needed.
    """
    outputs, like = list(outputs), [tensor.detach() for tensor in outputs]
    slopes = torch.autograd.grad(
        loss, outputs, create_graph=True, allow_unused=True, materialize_grads=True
    )
    live = [i for i, slope in enumerate(slopes) if slope.requires_grad]

    def product(u: Tensor) -> Tensor:
        if not live:
            return torch.zeros_like(u)
        pieces = unflatten(u, like)
        products = torch.autograd.grad(
            [slopes[i] for i in live],
            outputs,
            [pieces[i] for i in live],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return flatten(products).detach()

    rows = sum(tensor.numel() for tensor in like)
    return symmetric(rows, product, dtype=loss.dtype, device=loss.device)


def gauss_newton(loss: Tensor, outputs: Outputs, params: Sequence[Tensor]) -> LinearOperator:
    r"""The generalized Gauss-Newton matrix :math:`G = J^T Q J`, P x P.

    It is the Hessian without :math:`S = \sum_m \partial\ell/\partial z_m\,\nabla^2 z_m`, and
    positive semidefinite wherever the loss is convex in the outputs (Schraudolph 2002, *Fast
    curvature matrix-vector products for second-order gradient descent*).

    Args:
        loss: a scalar, computed from `outputs`, with its graph.
        outputs: z, the very tensors from which the loss was computed.
        params: the P parameters.
    """
    tensors = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    J = jacobian(tensors, params)
    Q = output_hessian(loss, tensors)
    return J.T @ Q @ J


def _explained(error: RuntimeError) -> RuntimeError:
    """The same error, with the way out where the cause is a missing second derivative."""
    text = str(error)
    if "compile" in text or "aot_autograd" in text:
        way_out = (
            "a compiled model cannot be differentiated twice. Pass the model as it was before "
            "torch.compile to the closure (model._orig_mod holds it)"
        )
    elif "is not implemented" in text or "does not support double backward" in text:
        way_out = (
            "an operation of the model has no second derivative. For scaled dot-product "
            "attention wrap the forward pass in "
            "torch.nn.attention.sdpa_kernel(SDPBackend.MATH); for cuDNN RNNs in "
            "torch.backends.cudnn.flags(enabled=False)"
        )
    else:
        return error
    return NotTwiceDifferentiableError(f"{way_out}. PyTorch said: {text}")
