r"""How far mini-batch steps reach, as a share of what the model of their own batch asks for.

A batch's model says how long the step is that lowers *its* loss most. Where noise is most of what
its gradient says, that step moves the other batches up and down and the loss stays where it is; in
stochastic approximation steps are shortened there (Robbins and Monro 1951). The loss of the next
batch says when: the share falls where the last step has raised that, and grows again where it has
lowered it by a notable part of what was predicted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..closure.evaluator import Evaluator
from ..closure.start import Start
from ..damping.mini_batch import OPENING
from .batches import last_step, reduction
from .memory import SystemMemory

LEAST, FACTOR, NOTABLE = 0.3, 0.9, 0.1
"""Least share, its factor for each verdict, and the part of the predicted reduction above which it
grows. After 200 steps: five classes of 30 features come to 0.22, without this to 0.66; a regression
with noise to 0.115 of test loss, and 0.132; tabular data to 1.07e-3, and 1.33e-3; an LSTM on digits
to 0.063, and 0.059. With 0.1 for the least share the LSTM comes to 0.12 after 160 steps (0.068
without), with 1/4 for the notable part to 0.090 after 200. A regression of 145 parameters in
batches of 32 stays as it is: its verdicts cancel."""


def reach_after(
    known: SystemMemory, evaluator: Evaluator, begin: Start, state: Mapping[Tensor, dict[str, Any]]
) -> float:
    """The share for this step.

    Args:
        known: of the last step, which takes part where it was put to the test on its own batch.
        evaluator: of this batch; it takes one evaluation, where the last step began.
        begin: where this step begins.
        state: in which that step's move is kept.
    """
    last = known.last
    if last is None or not last.accepted or last.iteration <= OPENING:
        return known.reach
    if begin.surrogate.accumulated or not abs(last.ratio) > 0:
        return known.reach  # the prediction is of another function, or there is none
    move = last_step(state, evaluator.params)
    predicted = (last.loss - last.loss_after) / last.ratio
    if move is None or not predicted > 0:
        return known.reach
    gain, _ = reduction(evaluator, begin, move)
    return adapted(known.reach, gain / predicted)


def adapted(reach: float, ratio: float) -> float:
    """The share after a step whose reduction of the next batch's loss is `ratio` of the predicted.

    It stays as it is where that is NaN.
    """
    if ratio < 0:
        return max(LEAST, FACTOR * reach)
    return min(1.0, reach / FACTOR) if ratio > NOTABLE and math.isfinite(ratio) else reach
