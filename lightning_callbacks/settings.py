"""How closely a measurement looks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How closely to look.

    Attributes:
        exact_up_to: the largest number of parameters P for which H is formed.
        max_rows: all eigenvalues of a kernel are computed where the smaller of its rows and P is
            at most this.
        max_products: Lanczos steps at most beyond either.
        eigenvectors: whether H's eigenvectors are computed with its eigenvalues.
        rounding: unit of rounding of the products, where it is above that of the dtype.
    """

    exact_up_to: int
    max_rows: int
    max_products: int
    eigenvectors: bool = False
    rounding: float = 0.0
