"""The vector with which the Lanczos processes of a measurement start."""

from __future__ import annotations

from torch import Tensor

from torch_newton import LinearOperator

from .bounded import first_vector


class Start:
    """`first_vector`, drawn once in a measurement and kept as long as its product is.

    A million normal numbers in double precision take a core 16 ms, which is two training steps of
    a dense network with as many parameters, or two products with its Hessian. The vector is asked
    for when a product is tried, when H is tested for symmetry, and when the process starts.
    """

    def __init__(self) -> None:
        self._vector: Tensor | None = None

    def __call__(self, A: LinearOperator) -> Tensor:
        """The vector for an operator, the same for all of a size, dtype and device."""
        v = self._vector
        if v is None or (len(v), v.dtype, v.device) != (A.shape[0], A.dtype, A.device):
            self._vector = v = first_vector(A)
        return v

    def drop(self) -> None:
        """Give up its memory; who asks again gets it drawn again."""
        self._vector = None
