"""The kind of a step: with an exact system, or along Kronecker factors."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from torch import Tensor

from ..closure.evaluator import Evaluator
from ..warning import Once
from .iteration import Iteration
from .memory import Memory
from .options import Options
from .stochastic import StochasticIteration


def iteration_of(
    evaluator: Evaluator,
    options: Options,
    memory: Memory,
    state: MutableMapping[Tensor, dict[str, Any]],
    lengths: float | Tensor,
    twice: bool,
    once: Once,
) -> Iteration | StochasticIteration:
    """One along Kronecker factors where these are asked for, or where batches gain more by them.

    The arguments are the fields of `Iteration`.
    """
    chosen = options.for_batches if memory.batches.along_factors else None
    common = evaluator, options if chosen is None else chosen, memory, state, lengths
    if chosen is not None or options.averaged:
        return StochasticIteration(*common, once, chosen is not None)
    return Iteration(*common, twice, once)
