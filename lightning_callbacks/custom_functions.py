r"""Whether a backward pass that is written by hand is the derivative of its forward pass.

A ``torch.autograd.Function`` F may return anything from its backward pass: reversed or scaled
gradients, the identity in place of a rounding's zero (a straight-through estimator), clipped ones,
or a derivative of which the own derivative is forgotten. A product with the Hessian is then taken
through all of these, and is often symmetric all the same, but of no function the second derivative.
At the inputs that F has in the model, compared are along a direction v

.. math:: \frac{F(x + h v) - F(x - h v)}{2h} = J v, \qquad B(x, t c) = t B(x, c), \qquad
          \frac{B(x + h v, c) - B(x - h v, c)}{2h} = \nabla_x (v^T B(x, c))

with :math:`B(x, c) = J^T c` the backward pass; the last holds because
:math:`\nabla_x^2 (c^T F)` is symmetric. (`torch.autograd.gradgradcheck` compares all entries of
these, in double precision.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from torch_newton.autodiff.nodes import custom_classes
from torch_newton.autodiff.products import check_twice_differentiable, nodes_of

from .replaced import replaced
from .second_order import Evaluation

APPLICATIONS = 3
"""Times that each function is tested in one evaluation of the model: chosen, since what is wrong
with a backward pass is wrong wherever it is applied."""

OUTLIERS = 0.1
"""The share of entries that may deviate: those near a kink do, which a step of 0.5 % of x reaches
for about as many entries, while of a wrong derivative hardly an entry is right."""

LARGE = 1e4
"""By how much a cotangent is made longer: chosen so that a gradient clipped anywhere near its usual
size is clipped, and that nothing overflows in half precision from numbers of size one."""


def wrong_backwards(
    loss: Tensor, evaluate: Callable[[], object], evaluation: Evaluation | None = None
) -> list[str]:
    """What in the graph of a loss has a backward pass that is no derivative.

    Args:
        loss: with its graph.
        evaluate: evaluates it again, from the same random numbers. Not called where the graph
            holds no function written in Python.
        evaluation: that of the loss, which has noticed what hooks on tensors do.
    """
    wrong: dict[str, None] = {}
    with ExitStack() as stack:
        classes = custom_classes(nodes_of(loss))
        for function in classes:
            stack.enter_context(_tested(function, lambda name: wrong.setdefault(name)))
        if classes:
            evaluate()
    if evaluation is not None and evaluation.altered:
        wrong["a hook on a tensor"] = None
    return list(wrong)


@contextmanager
def _tested(function: Any, note: Callable[[str], object]) -> Iterator[None]:
    """A block in which the first applications of a function are tested before it is applied."""
    forward, left = function.forward, [APPLICATIONS]

    def tested(*arguments: Any) -> Any:
        if left[0] > 0:
            left[0], rest = 0, left[0] - 1  # the test applies the function, too
            given = isinstance(arguments[0], torch.autograd.function.FunctionCtx)
            try:
                if _is_wrong(function, arguments[1:] if given else arguments):
                    note(function.__name__)
            except Exception:
                pass  # what cannot be applied by itself is left to the test for symmetry
            left[0] = rest
        return forward(*arguments)

    with replaced(function, "forward", staticmethod(tested)):
        yield


def _is_wrong(function: Any, arguments: Sequence[Any]) -> bool:
    """Whether a function deviates in any of the inputs that it is differentiated in."""
    devices = {a.device.type for a in arguments if isinstance(a, Tensor)}
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        for device in devices:
            stack.enter_context(torch.autocast(device, enabled=False))
        return any(
            _deviates(_in_one(function, arguments, place), _widened(argument.detach()))
            for place, argument in enumerate(arguments)
            if isinstance(argument, Tensor) and argument.requires_grad
        )


def _in_one(
    function: Any, arguments: Sequence[Any], place: int
) -> Callable[[Tensor], list[Tensor]]:
    """The outputs that are differentiated as a function of one input, the others held fixed."""

    def outputs(x: Tensor) -> list[Tensor]:
        # Copies, since a function may change its inputs; and the same random numbers each time.
        fixed = [_widened(a.detach().clone()) if isinstance(a, Tensor) else a for a in arguments]
        fixed[place] = x.clone()
        torch.manual_seed(0)
        found = function.apply(*fixed)
        several = found if isinstance(found, tuple) else (found,)
        return [y for y in several if isinstance(y, Tensor) and y.requires_grad]

    return outputs


def _widened(x: Tensor) -> Tensor:
    """A tensor of half precision in single: in its own, a step that is no rounding meets kinks."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _deviates(apply: Callable[[Tensor], list[Tensor]], x: Tensor) -> bool:
    """Whether one of the three comparisons fails."""
    random = torch.Generator().manual_seed(0)

    def normal(like: Tensor) -> Tensor:
        drawn = torch.randn(like.shape, generator=random, dtype=torch.float64)
        return drawn.to(like.device, like.dtype)

    def backward(at: Tensor, cotangents: Sequence[Tensor]) -> Tensor:
        return _gradient(apply(at), at, cotangents)

    v = normal(x)
    x = x.clone().requires_grad_()
    ys = apply(x)
    eps = max(torch.finfo(t.dtype).eps for t in (x, *ys))
    h = eps ** (1 / 3) * max(1.0, float(x.detach().square().mean().sqrt()))

    def difference(of: Callable[[Tensor], Sequence[Tensor]]) -> list[Tensor]:
        ends = [of((x + sign * h * v).detach().requires_grad_()) for sign in (1, -1)]
        return [(up - down).detach() / (2 * h) for up, down in zip(*ends, strict=True)]

    cs = [normal(y) for y in ys]
    zeros = [torch.zeros_like(y, requires_grad=True) for y in ys]
    linear = _gradient(ys, x, zeros)
    check_twice_differentiable([], [linear])  # else autograd would say that it is constant
    along = torch.autograd.grad(linear, zeros, v, materialize_grads=True, allow_unused=True)
    if any(map(_differ, difference(apply), along, [eps] * len(ys), ys)):
        return True
    once = backward(x, cs)
    if _differ(backward(x, [LARGE * c for c in cs]) / LARGE, once, eps, once):
        return True
    second = torch.zeros_like(x)
    if once.requires_grad:
        second = _gradient([once], x, [v])
    return _differ(difference(lambda at: [backward(at, cs)])[0], second, eps, once)


def _gradient(ys: Sequence[Tensor], x: Tensor, cotangents: Sequence[Tensor]) -> Tensor:
    found: Tensor = torch.autograd.grad(
        ys, x, cotangents, create_graph=True, materialize_grads=True, allow_unused=True
    )[0]
    return found


def _differ(a: Tensor, b: Tensor, eps: float, scale: Tensor) -> bool:
    """Whether two tensors differ in more than `OUTLIERS` of their entries.

    By half of the digits that a difference leaves, relative to the root mean square of the larger
    one, or of `scale` where that is more.
    """
    sizes = [t.detach().double() for t in (a, b, scale)]
    size = max(float(t.square().mean().sqrt()) for t in sizes)
    far = (sizes[0] - sizes[1]).abs() > eps ** (1 / 3) * size
    return float(far.double().mean()) > OUTLIERS
