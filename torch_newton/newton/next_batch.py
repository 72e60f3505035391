"""What a step learns from its batch of the step before, and leaves for the one after."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..closure.evaluator import Evaluator
from ..closure.start import Start
from ..curvature.kronecker import Kronecker
from ..curvature.linearization import Linearization
from ..step import Path, Step
from .batches import Batches, last_step, place_of, reduction
from .memory import Memory


def met(
    memory: Memory, evaluator: Evaluator, begin: Start, state: Mapping[Tensor, dict[str, Any]]
) -> Memory:
    """The memory with what this step's batch says of the last step, before the step is chosen."""
    params = evaluator.params
    batches = memory.batches.seen(begin.surrogate.start, place_of(params)).begun
    last = last_step(state, params) if batches.vary and batches.contest.due else None
    if last is None:
        return replace(memory, batches=batches)
    gain, nats = reduction(evaluator, begin, last)
    if not math.isfinite(nats):
        return replace(memory, batches=batches)
    batches = replace(batches, contest=batches.contest.gained(nats))
    return replace(_judged(memory, gain), batches=batches)


def _judged(memory: Memory, gain: float) -> Memory:
    """With the ratio of the last exact step on the next batch, where that is the smaller one.

    On its own batch it is near one however small lambda is, where a network can fit a batch; the
    next batch says whether lambda is too small.
    """
    step = memory.last_step
    if step is None or step.path is Path.KRONECKER or not step.accepted:
        return memory
    known = memory.systems.get(step.system.name)
    if known is None or known.last is None or not abs(step.ratio) > 0:
        return memory
    predicted = (step.loss - step.loss_after) / step.ratio
    if not predicted > 0:
        return memory
    last = replace(known.last, ratio=min(known.last.ratio, gain / predicted))
    systems = {**memory.systems, step.system.name: replace(known, last=last)}
    return replace(memory, systems=systems)


def looked_at(batches: Batches, at: Linearization, first: bool) -> Batches:
    """With whether the loss has Kronecker factors, where that may soon be asked.

    Args:
        batches: what is remembered of them.
        at: the present point.
        first: whether this is the first step, after which the batches may vary.
    """
    if not (batches.changes or first):
        return batches
    return replace(batches, factored=Kronecker().available(at))


def left(
    memory: Memory, evaluator: Evaluator, begin: Start, step: Step, move: Tensor | None, cost: float
) -> Memory:
    """The memory with where the step has ended.

    Args:
        memory: after the step.
        evaluator: whose parameters have moved.
        begin: where the step began.
        step: what was done.
        move: by how much; None where it was refused.
        cost: of the step, in gradients.
    """
    batches, surrogate = memory.batches, begin.surrogate
    loss = surrogate.start if move is None else surrogate.own(step.loss_after, move)
    contest = batches.contest
    if batches.vary:
        contest = contest.after(cost)
    elif batches.changes or memory.steps == 1:
        contest = contest.began(cost)
    place = place_of(evaluator.params)
    return replace(memory, batches=replace(batches, loss=loss, place=place, contest=contest))
