"""Dense matrices formed without the library, as the truth that directions are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.trust.architectures.case import Problem

STEP = 1e-4
"""Of the differences of fourth order. They are off by about STEP^4 = 1e-16 times the fifth
derivative, and by rounding of 1e-16 / STEP = 1e-12 times the gradient; a longer step, of 1e-3,
crosses kinks."""


def flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def move(params: Sequence[Tensor], point: Tensor) -> None:
    """Put the parameters at a point, given as one vector."""
    with torch.no_grad():
        for param, piece in zip(params, point.split([p.numel() for p in params]), strict=True):
            param.copy_(piece.view(param.shape))


def gradient(problem: Problem) -> Tensor:
    """By the backward pass that every optimizer uses."""
    for param in problem.params:
        param.grad = None
    problem.value().backward()
    return flat(torch.zeros_like(p) if p.grad is None else p.grad for p in problem.params)


def left(problem: Problem) -> Tensor:
    """The gradient that the problem's own closure leaves, which clipping changes."""
    if problem.closure is None:
        return gradient(problem)
    for param in problem.params:
        param.grad = None
    problem.rewind()
    problem.closure(torch.optim.SGD(problem.params))()
    if all(param.grad is None for param in problem.params):  # it leaves that to the optimizer
        return gradient(problem)
    return flat(torch.zeros_like(p) if p.grad is None else p.grad for p in problem.params)


def difference(problem: Problem, v: Tensor, step: float = STEP) -> Tensor:
    """H v, by differences of gradients of fourth order."""
    start = flat(problem.params)
    found = torch.zeros_like(start)
    for multiple, weight in ((1, 8.0), (-1, -8.0), (2, -1.0), (-2, 1.0)):
        move(problem.params, start + multiple * step * v)
        found += weight * gradient(problem)
    move(problem.params, start)
    return found / (12 * step)


def rows(values: Tensor, params: Sequence[Tensor]) -> Tensor:
    """The Jacobian of a tensor, one backward pass for each of its entries."""
    entries = values.reshape(-1)
    width = sum(p.numel() for p in params)
    matrix = torch.zeros(len(entries), width, dtype=params[0].dtype)
    for i, entry in enumerate(entries):
        if entry.requires_grad:
            found = torch.autograd.grad(
                entry, params, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            matrix[i] = flat(found)
    return matrix


def hessian(problem: Problem, differences: bool) -> Tensor:
    """H, P x P: row by row by double backward, or column by column by differences."""
    params = problem.params
    if differences:
        width = sum(p.numel() for p in params)
        columns = [difference(problem, v) for v in torch.eye(width, dtype=params[0].dtype)]
        matrix = torch.stack(columns, 1)
        return (matrix + matrix.T) / 2
    with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
        value = problem.value()
    slopes = torch.autograd.grad(
        value, params, create_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([rows(slope, params) for slope in slopes])


def gauss_newton(problem: Problem) -> Tensor | None:
    """J^T Q J, P x P, where the problem says what its outputs are."""
    if problem.outputs is None or problem.criterion is None:
        return None
    problem.rewind()
    z = problem.outputs()
    J = rows(z, problem.params)
    criterion = problem.criterion
    Q = torch.autograd.functional.hessian(criterion, z.detach()).reshape(len(J), len(J))
    return J.T @ Q @ J


def misfit(problem: Problem, H: Tensor) -> float:
    """How far H is from differences of gradients along one direction, relatively."""
    v = torch.randn(len(H), generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(H)
    v /= v.norm()
    expected = difference(problem, v)
    size = max(float(expected.norm()), 1e-8 * float(torch.linalg.matrix_norm(H)))
    return float((H @ v - expected).norm()) / size if size > 0 else 0.0


def regular_damping(matrix: Tensor, start: float) -> float:
    """The first of the dampings start, 1.25 start, ... at which no eigenvalue is nearly zero.

    Nearly is within a third of lambda: closer than that, the condition number would measure the
    accident of where an eigenvalue of H lies, and no method reaches the tolerance.
    """
    values = torch.linalg.eigvalsh(((matrix + matrix.T) / 2).double())
    damping = start
    while float((values + damping).abs().min()) < damping / 3:
        damping *= 1.25
    return damping


def direction(matrix: Tensor, slope: Tensor, damping: float) -> Tensor:
    """The solution d of (A + lambda I) d = -g."""
    A = matrix.double() + damping * torch.eye(len(matrix), dtype=torch.float64)
    return -torch.linalg.solve(A, slope.double())
