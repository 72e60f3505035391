"""A bar for measurements that take long, and that nothing limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from torch_newton import LinearOperator

PATIENCE = 10.0
"""Seconds after which a bar appears: chosen so that ordinary measurements show none."""


@contextmanager
def bar(shown: bool) -> Iterator[Callable[[int], Any]]:
    """A block in which a bar counts products with the Hessian, once it has taken `PATIENCE`.

    Drawn by tqdm, which Lightning's own progress bar uses; without it there is none.

    Args:
        shown: whether to draw one at all.
    """
    if not shown or find_spec("tqdm") is None:
        yield lambda count: None
        return
    counter = import_module("tqdm").tqdm(
        desc="CurvatureMonitor", unit=" products", delay=PATIENCE, leave=False
    )
    try:
        yield counter.update
    finally:
        counter.close()


def counted(A: LinearOperator, tick: Callable[[int], Any]) -> LinearOperator:
    """The same operator, which tells `tick` how many products it takes."""

    def of_vector(multiply: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def product(v: Tensor) -> Tensor:
            result = multiply(v)
            tick(1)
            return result

        return product

    def of_columns(block: Callable[[Tensor], Tensor] | None) -> Callable[[Tensor], Tensor] | None:
        if block is None:
            return None

        def product(columns: Tensor) -> Tensor:
            result = block(columns)
            tick(columns.shape[1])
            return result

        return product

    return LinearOperator(
        A.shape, of_vector(A.matvec), of_vector(A.rmatvec), A.dtype, A.device,
        of_columns(A.matmat), of_columns(A.rmatmat),
    )  # fmt: skip
