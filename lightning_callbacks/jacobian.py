"""The per-sample Jacobian of a loss's outputs, with a warning where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torch_newton.kernels.rows import (
    KernelError,
    Rows,
    TooManyPassesError,
    of_matrix,
    rows_of_loss,
    rows_of_outputs,
)
from torch_newton.linalg.factored_jacobian import FactoredJacobian

__all__ = ["Rows", "Warn", "in_scaled_variables", "jacobian_given", "jacobian_in"]

Warn = Callable[..., None]
"""Warns the user."""


def jacobian_in(
    loss: Tensor,
    params: Sequence[Tensor],
    warn: Warn,
    known: FactoredJacobian | None = None,
    max_passes: float = math.inf,
) -> Rows | None:
    """J of the outputs in the graph of a loss; None, and a warning, where there are none.

    Args:
        loss: a scalar with its graph.
        params: the P parameters.
        warn: called with what was not found, and the way out.
        known: the weighted Jacobian, where a step of the optimizer has read it already.
        max_passes: backward passes, one a row, by which it may be formed.

    Raises:
        TooManyPassesError: it takes more.
    """
    try:
        found, unrecognised = rows_of_loss(loss, params, known, max_passes)
    except TooManyPassesError:
        raise
    except KernelError as error:
        warn(f"no kernels are logged: {error}")
        return None
    if found is None:
        warn(
            "no outputs were recognised in the graph of the loss, which begins with "
            f"{', '.join(unrecognised)}, so no kernels are logged: give CurvatureMonitor "
            "outputs=callable(module, batch) that returns the network's outputs"
        )
    elif unrecognised:
        warn(
            f"parts of the loss were not recognised ({', '.join(unrecognised)}): the "
            "kernels are those of the other parts. To choose the rows yourself give "
            "CurvatureMonitor outputs=callable(module, batch)"
        )
    return found


def jacobian_given(
    outputs: Sequence[Tensor],
    params: Sequence[Tensor],
    warn: Warn,
    max_passes: float = math.inf,
) -> Rows | None:
    """J of outputs that the user gave, one tensor a batch; None, and a warning, if too large.

    Raises:
        TypeError: one of them is not a tensor.
        TooManyPassesError: it takes more than `max_passes` backward passes.
    """
    for tensor in outputs:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"outputs must return a tensor, not {type(tensor).__name__}")
    together = torch.cat(list(outputs)) if len(outputs) > 1 else outputs[0]
    try:
        return rows_of_outputs(together, params, max_passes)
    except TooManyPassesError:
        raise
    except KernelError as error:
        warn(f"no kernels are logged: {error}")
        return None


def in_scaled_variables(J: Rows, scaling: Tensor) -> Rows:
    """The same with D^{-1/2} multiplied into the weighted Jacobian: lambda D becomes lambda I.

    Args:
        J: of the outputs.
        scaling: D^{-1/2}, P entries.
    """
    weighted = J.weighted.dense() * scaling
    return Rows(J.plain, of_matrix(weighted, J.weighted.like), None, J.rank)
