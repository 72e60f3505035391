"""What `RegNewton` is told, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .damping import DampingRule, RetryingRule
from .preconditioners import Preconditioner
from .step import Arm

CURVATURES = ("auto", "hessian", "gauss_newton")
SCALINGS = ("auto", "jacobian", None)


@dataclass(frozen=True)
class Options:
    """What holds for all parameters together; `lr` alone may differ between groups.

    Raises:
        ValueError: a value is out of its range.
    """

    damping: DampingRule
    curvature: str
    preconditioner: str | Preconditioner | None
    cg_max_iter: int | None
    cg_tol: float | None
    width: int | None
    scaling: str | None = "auto"

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise ValueError(f"scaling must be 'auto', 'jacobian' or None, not {self.scaling!r}")
        if self.scaling == "jacobian" and self.preconditioner != "auto":
            raise ValueError(
                "scaling='jacobian' needs the rows that preconditioner='auto' reads: leave the "
                "preconditioner as it is, or the scaling"
            )
        if self.curvature not in CURVATURES:
            names = ", ".join(repr(name) for name in CURVATURES)
            raise ValueError(f"curvature must be one of {names}, not {self.curvature!r}")
        if not (self.preconditioner in (None, "auto") or callable(self.preconditioner)):
            raise ValueError(
                f"preconditioner must be 'auto', None or a callable, not {self.preconditioner!r}"
            )
        for name in ("cg_max_iter", "width"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and value >= 1):
                raise ValueError(f"{name} must be a positive integer or None, not {value!r}")
        tol = self.cg_tol
        if tol is not None and not (isinstance(tol, (int, float)) and 0 <= tol < 1):
            raise ValueError(f"cg_tol must be a number in [0, 1) or None, not {tol!r}")

    def arms(self) -> frozenset[Arm]:
        """The arms that a step may choose among, where the loss allows them.

        With a fixed damping it is the exact Hessian and lambda I unless the user says otherwise:
        that is the paper's method.
        """
        adaptive = isinstance(self.damping, RetryingRule)
        exact, scaled = [True, False], [True, False]
        if self.curvature != "auto" or not adaptive:
            exact = [self.curvature != "gauss_newton"]
        if self.scaling != "auto" or not adaptive or self.preconditioner != "auto":
            scaled = [self.scaling == "jacobian"]
        return frozenset(arm for arm in Arm if arm.exact in exact and arm.scaled in scaled)


def check_lr(lr: float | Tensor) -> None:
    """Raise a ValueError unless `lr` is one finite number that is not negative."""
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("lr as a tensor must have one element")
    if not (float(lr) >= 0 and math.isfinite(float(lr))):
        raise ValueError(f"lr must be finite and >= 0, not {float(lr)}")


FOREIGN = {
    "alpha", "amsgrad", "betas", "centered", "dampening", "eps", "foreach", "fused", "maximize",
    "momentum", "nesterov", "rho", "weight_decay",
}  # fmt: skip
"""Options of other optimizers, which a group copied from one may still have."""


def check_group(group: dict[str, object]) -> None:
    """Raise a ValueError where a parameter group has an option of its own that it cannot have."""
    foreign = sorted(set(group) & FOREIGN)
    if foreign:
        raise ValueError(
            f"RegNewton has no {', '.join(foreign)}: leave it out of the parameter group"
            + ("; add weight decay to the loss" if "weight_decay" in foreign else "")
        )
    own = sorted(set(group) & set(Options.__dataclass_fields__))
    if own:
        raise ValueError(
            f"{', '.join(own)} cannot differ between parameter groups, because one linear "
            "system couples all parameters: give it to RegNewton(...); lr may differ"
        )


def check_params(params: Sequence[Tensor]) -> None:
    """Raise where the parameters cannot be the unknowns of one linear system.

    Raises:
        TypeError: a parameter is not real, dense and floating-point.
        ValueError: there are several dtypes, or several devices.
    """
    for param in params:
        if not param.is_floating_point() or param.layout is not torch.strided:
            raise TypeError(
                f"RegNewton trains real dense floating-point parameters, not {param.dtype} "
                f"ones of layout {param.layout}: train the others with another optimizer"
            )
    for what, kinds in (
        ("dtype", {param.dtype for param in params}),
        ("device", {param.device for param in params}),
    ):
        if len(kinds) > 1:
            names = ", ".join(sorted(str(kind) for kind in kinds))
            raise ValueError(
                f"all parameters must share one {what}, because one linear system couples "
                f"them, but there are {names}"
            )
