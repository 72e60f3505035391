"""The vector with which the Lanczos processes of a measurement start."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from torch_newton import LinearOperator

from .bounded import First, first_vector


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

    def product(self, A: LinearOperator, derivatives: Any) -> Tensor:
        """A times the vector, as `Derivatives` have tried it when A was read, or taken now."""
        tried: Tensor | None = None if derivatives is None else derivatives.take_tried()
        return A @ self(A) if tried is None else tried

    def handed_over(self, A: LinearOperator, known: dict[str, Any], name: str) -> First:
        """The vector and the product that is known by a name; neither is kept when it is taken."""

        def take() -> list[Tensor]:
            pair = [self(A), known.pop(name)]
            self.drop()
            return pair

        return take if name in known else None

    def drop(self) -> None:
        """Give up its memory; who asks again gets it drawn again."""
        self._vector = None
