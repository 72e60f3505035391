"""The table of curvatures that have a name."""

from __future__ import annotations

from collections.abc import Callable

from .base import Curvature
from .gauss_newton import GaussNewton
from .hessian import Hessian
from .kronecker import Kronecker

CURVATURES: dict[str, Callable[[], Curvature]] = {
    GaussNewton.name: GaussNewton,
    Hessian.name: Hessian,
    Kronecker.name: Kronecker,
}
"""Curvatures by their names. ``curvature="auto"`` chooses among `AUTOMATIC`, in this order."""

AUTOMATIC = (GaussNewton.name, Hessian.name)
"""The cheaper one first: a step opens with it."""


def curvatures(given: str | Curvature, adaptive: bool) -> tuple[Curvature, ...]:
    """The curvatures that `given` stands for: a name in `CURVATURES`, ``"auto"``, or one itself.

    Under a damping that does not adapt, ``"auto"`` is the exact Hessian: the paper's method.

    Raises:
        ValueError: an unknown name, or neither a name nor a curvature.
    """
    if isinstance(given, Curvature):
        return (given,)
    if given == "auto":
        return tuple(CURVATURES[name]() for name in (AUTOMATIC if adaptive else (Hessian.name,)))
    if not isinstance(given, str) or given not in CURVATURES:
        names = ", ".join(repr(name) for name in ("auto", *CURVATURES))
        raise ValueError(f"curvature must be one of {names} or a Curvature, not {given!r}")
    return (CURVATURES[given](),)
