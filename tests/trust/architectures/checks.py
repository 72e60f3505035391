"""What is checked of each case, and what the table says of it."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from functools import lru_cache

import pytest
import torch
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from tests.trust.architectures import reference
from tests.trust.architectures.case import Case, Problem
from torch_newton import RegNewton, Step
from torch_newton.closure.capture import ClosureError
from torch_newton.step import Path

TIGHT = 1e-12
"""Residual of the solves in double precision. The error in d is at most that times the condition
number, which is up to 1e5 here, so that 1e-6 leaves a factor of ten."""

TIGHT_SINGLE = 1e-6
"""The same in single precision, ten units of rounding."""

GROWTH, FLOOR = 1e3, 0.1
"""A parameter may become GROWTH times as large as its largest entry was, or as FLOOR, the size of
PyTorch's initial weights for a hundred inputs, where it starts at or near zero."""

ABSURD = 10.0
"""Times the larger of the losses before training, in both modes. Running averages, at momentum 0.1,
lag by a fifth after 15 steps, which costs factors of a few; runaway parameters cost
much more."""

PROBE = 1e-5
"""Relative difference between a double backward and differences of gradients that is still
attributed to the latter: kinks and high derivatives, not wrong formulas, which show as 1e-2."""


@dataclass
class Row:
    """What the table says of a case."""

    name: str
    P: int = 0
    R: int = 0
    errors: dict[str, float] = field(default_factory=dict)
    path: str = "-"
    jacobian: str = "-"
    before: float = math.nan
    after: float = math.nan
    passed: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)


ROWS: dict[str, Row] = {}


def row(case: Case) -> Row:
    return ROWS.setdefault(case.name, Row(case.name))


@dataclass(frozen=True)
class Training:
    """A run of default steps."""

    problem: Problem
    slopes: list[float]
    starts: list[torch.Tensor]
    evaluated: tuple[float, float]
    steps: list[Step]


def direction(case: Case) -> None:
    """Directions at a fixed damping are those of the dense system."""
    if case.undirected:
        return
    problem = case.build()
    slope = reference.left(problem)
    H = reference.hessian(problem, bool(case.differences))
    if not (case.differences or case.unprobed):
        off = reference.misfit(problem, H)
        assert off <= PROBE, f"the double backward itself is off by {off:.1e}"
    G = reference.gauss_newton(problem)
    entry = row(case)
    entry.P, entry.R = len(H), 0 if problem.outputs is None else problem.outputs().numel()
    for curvature, matrix in (("hessian", H), ("gauss_newton", G)):
        if matrix is not None:
            error = _error(case, curvature, matrix, slope)
            if error is not None:
                entry.errors[curvature] = error
    worst = max(entry.errors.values())
    assert worst <= case.tol, f"relative errors {entry.errors}"


def _error(case: Case, curvature: str, matrix: torch.Tensor, slope: torch.Tensor) -> float | None:
    """Of one step; None where the loss has no such curvature."""
    problem = case.build()
    damping = reference.regular_damping(matrix, case.damping)
    tol = TIGHT if matrix.dtype == torch.float64 else TIGHT_SINGLE
    optimizer = RegNewton(problem.params, damping=damping, curvature=curvature, cg_tol=tol)
    before = reference.flat(problem.params)
    try:
        optimizer.step(problem.closure_for(optimizer))
    except ClosureError as error:
        if curvature == "gauss_newton" and "curvature='gauss_newton'" in str(error):
            return None
        raise
    step = optimizer.last_step
    assert step is not None
    assert step.accepted, f"refused: the loss is {step.loss_after} at lambda = {damping:g}"
    expected = reference.direction(matrix, slope, damping)
    found = (reference.flat(problem.params) - before).double()
    size = float(expected.norm())
    return float((found - expected).norm()) / size if size > 0 else float(found.norm())


@lru_cache(maxsize=2)
def _trained(case: Case) -> Training:
    problem = case.build()
    sizes = [p.numel() for p in problem.params]
    slopes = [float(piece.norm()) for piece in reference.gradient(problem).split(sizes)]
    starts = [p.detach().clone() for p in problem.params]
    first = _evaluated(problem)
    problem.rewind()
    optimizer = RegNewton(problem.params)
    closure, steps = problem.closure_for(optimizer), []
    for _ in range(case.steps):
        optimizer.step(closure)
        assert optimizer.last_step is not None
        steps.append(optimizer.last_step)
    return Training(problem, slopes, starts, (first, _evaluated(problem)), steps)


def _evaluated(problem: Problem) -> float:
    """The loss in evaluation mode; NaN without a module for which that makes a difference."""
    module = problem.module
    kinds = (_NormBase, _DropoutNd)
    if module is None or not any(isinstance(m, kinds) and m.training for m in module.modules()):
        return math.nan
    module.eval()
    value = float(problem.loss().detach())
    module.train()
    return value


def descent(case: Case) -> None:
    """No accepted step raises the loss, and the loss falls."""
    run, entry = _trained(case), row(case)
    used = [step for step in run.steps if step.attempts > 0]
    entry.P = sum(p.numel() for p in run.problem.params)
    entry.before, entry.after = run.steps[0].loss, run.steps[-1].loss_after
    eps = torch.finfo(run.problem.params[0].dtype).eps
    for step in used:
        # Ten units of rounding are the optimizer's own notion of equal losses.
        slack = 10 * eps * abs(step.loss)
        assert not step.accepted or step.loss_after <= step.loss + slack, f"step {step}"
    values = reference.flat(run.problem.params)
    assert bool(torch.isfinite(values).all())
    if not case.rests:
        assert any(step.accepted and step.loss_after < step.loss for step in used)


def moves(case: Case) -> None:
    """Every parameter that has a gradient is trained."""
    run = _training(case)
    largest = max(run.slopes)
    for number, (param, start) in enumerate(zip(run.problem.params, run.starts, strict=True)):
        if run.slopes[number] > 1e-8 * largest and not case.rests:
            assert not torch.equal(param, start), f"parameter {number} has not moved"


def size(case: Case) -> None:
    """No parameter becomes a thousand times as large as it was, without a reason."""
    run = _training(case)
    for number, (param, start) in enumerate(zip(run.problem.params, run.starts, strict=True)):
        if param.numel() and not case.grows:
            now, then = float(param.detach().abs().max()), float(start.abs().max())
            bound = GROWTH * max(then, FLOOR)
            assert now <= bound, f"parameter {number} went from {then:.1e} to {now:.1e}"


def evaluation(case: Case) -> None:
    """The loss in evaluation mode is of the size of the losses before training."""
    run = _training(case)
    before, after = run.evaluated
    if math.isnan(before):
        return  # both modes are the same
    largest = max(abs(before), abs(run.steps[0].loss))
    assert after <= ABSURD * largest, f"loss {after:.1e} in evaluation mode"


def path(case: Case) -> None:
    """The default steps are solved in the way that is declared.

    A loss that changes by itself, as with dropout, is taken for one of mini-batches, and steps
    along Kronecker factors are tried on it: the last step that solved a system counts.
    """
    solved = [step for step in _training(case).steps if step.path is not Path.KRONECKER]
    step = solved[-1]
    entry = row(case)
    entry.path, entry.jacobian = step.path.name, step.jacobian
    if case.path is not None:
        assert step.path.name == case.path, f"{step.path.name} with unread {step.unread}"


def _training(case: Case) -> Training:
    try:
        return _trained(case)
    except Exception as error:
        pytest.skip(f"no training: {type(error).__name__}")


TABLE = {f.__name__: f for f in (direction, descent, moves, size, evaluation, path)}


def run(case: Case, check: str) -> None:
    """One check of one case, noted in the table."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not case.refused:
                TABLE[check](case)
            elif check == "descent":
                with pytest.raises(ClosureError, match=case.refused):
                    _trained(case)
                row(case).path = "refused"
    except Exception:
        row(case).failed.add(check)
        raise
    row(case).passed.add(check)
