"""Hooks by which a model changes gradients on their way to the optimizer.

A hook on a parameter (``Tensor.register_hook``) or on a module (``register_full_backward_hook``)
acts in every backward pass, and so twice in a product with the Hessian: with gradients multiplied
by a mask m or a factor, autograd gives diag(m) H diag(m), which is symmetric, and no second
derivative of the loss. They are no part of the loss, and are put aside while it is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


def backward_hooks(
    module: Any, optimizers: Sequence[torch.optim.Optimizer]
) -> list[dict[int, Any]]:
    """The tables of a module's hooks on gradients that are not empty, and of its parameters'.

    Hooks that run after a gradient was accumulated (``register_post_accumulate_grad_hook``) are not
    among them: nothing is accumulated in a measurement.

    Args:
        module: with all its parts.
        optimizers: which may train parameters besides those of the module.
    """
    tables = {}
    params = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    for thing in (*module.modules(), *module.parameters(), *params):
        for name in ("_backward_hooks", "_backward_pre_hooks"):
            table = getattr(thing, name, None)
            if table:
                tables[id(table)] = table
    return list(tables.values())


@contextmanager
def without_backward_hooks(
    module: Any, optimizers: Sequence[torch.optim.Optimizer]
) -> Iterator[None]:
    """A block in which no hook of a module or of a parameter changes a gradient.

    The tables are emptied in place, since autograd refers to them and reads them when it runs.
    """
    kept = [(table, dict(table)) for table in backward_hooks(module, optimizers)]
    try:
        for table, _ in kept:
            table.clear()
        yield
    finally:
        for table, hooks in kept:
            table.clear()
            table.update(hooks)
