"""The table of preconditioners that have a name."""

from __future__ import annotations

from collections.abc import Callable

from .base import AnyPreconditioner
from .kronecker import Kronecker
from .nystrom import Nystrom
from .sampled_rows import SampledRows

PRECONDITIONERS: dict[str, Callable[[], AnyPreconditioner]] = {
    "kronecker": Kronecker,
    "nystrom": Nystrom,
    "sampled_rows": SampledRows,
}
"""Preconditioners by their names, each as what makes one; users may add their own.

``"auto"`` is none of them: it is the function space of the loss, where a step starts, and beyond
its budget iterations with a factor of low rank.
"""


def preconditioner(given: str | AnyPreconditioner | None) -> str | AnyPreconditioner | None:
    """What `given` stands for: ``"auto"``, None, a name in `PRECONDITIONERS`, or a callable.

    Raises:
        ValueError: none of these.
    """
    if given is None or given == "auto" or callable(given):
        return given
    if isinstance(given, str) and given in PRECONDITIONERS:
        return PRECONDITIONERS[given]()
    names = ", ".join(repr(name) for name in ("auto", *PRECONDITIONERS))
    raise ValueError(f"preconditioner must be {names}, None or a callable, not {given!r}")
