"""What a step did, in words, through the logger ``torch_newton``."""

from __future__ import annotations

import logging
import math

from ..step import Path, Step
from ..warning import Once

LOGGER = logging.getLogger("torch_newton")

DEAR = 5.0
"""Seconds above which a step is called slow (chosen: one asks by then what it is doing)."""


def show_steps() -> None:
    """Let the logger's lines through, to the terminal where nobody has set up anything else."""
    if not LOGGER.hasHandlers():
        LOGGER.addHandler(logging.StreamHandler())
    if LOGGER.level == logging.NOTSET:
        LOGGER.setLevel(logging.INFO)


def report(step: Step, seconds: float, verbose: bool, once: Once) -> None:
    """Log the step, where that was asked for, and once that steps are slow."""
    if verbose:
        LOGGER.info(sentence(step))
    message = None if "slow" in once.said else slow(step, seconds)
    if message is not None:
        once.said |= {"slow"}
        LOGGER.warning(message)


def sentence(step: Step) -> str:
    """One line on a step."""
    if step.accepted:
        after = "(untested)" if math.isnan(step.loss_after) else f"to {step.loss_after:.6g}"
        what = f"loss {step.loss:.6g} {after}, lambda {step.damping:.1e}"
        if not math.isnan(step.ratio):
            what += f", ratio {step.ratio:.2f}"
    elif step.attempts == 0:
        what = f"loss {step.loss:.6g}, nothing to solve"
    else:
        tried = "one lambda" if step.attempts == 1 else f"{step.attempts} lambdas"
        what = f"loss {step.loss:.6g} stays, {tried} refused, next {step.damping:.1e}"
    line = f"step {step.iteration}: {what} ({step.system}, {_cost(step)})"
    return line if step.convergence is None else f"{line}; at rest: {step.convergence.value}"


def slow(step: Step, seconds: float) -> str | None:
    """What to say of a step that took long, and of the way out; None where it did not.

    Nothing but this text depends on the time. The first step is let off: it also compiles, tests
    and fills caches.
    """
    if seconds <= DEAR or step.iteration == 1:
        return None
    return f"a step took {seconds:.0f} s, for {_cost(step)}: {_way_out(step)}"


def _cost(step: Step) -> str:
    return f"{step.closure_calls} evaluations, {step.products} products"


def _way_out(step: Step) -> str:
    if step.path is Path.KRONECKER:
        return "use smaller mini-batches"
    if step.path is Path.FUNCTION_SPACE:
        return (
            "use fewer samples in a step, or a smaller network; with mini-batches "
            "curvature='kronecker' costs a few gradients a step"
        )
    if step.unread:
        return (
            f"it is not solved in function space, because of {step.unread[0]}; do something about "
            "that, or use mini-batches and curvature='kronecker'"
        )
    return (
        "lower cg_max_iter, use fewer samples in a step, or mini-batches and "
        "curvature='kronecker', which costs a few gradients a step; with memory to spare raise "
        "max_memory"
    )
