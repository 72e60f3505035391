"""What `RegNewton` is told, checked.

Every input that it cannot work with is answered by one exception or warning that says what to
do next. (``tests/newton/test_bad_input.py`` provokes each line of this table.)

==================================================  ===================================
what is wrong                                       what it says
==================================================  ===================================
``lr`` negative or not finite                       lr must be finite and >= 0
``lr`` no number                                    lr must be a number
``lr`` a tensor of several elements                 Tensor lr must be 1-element
``lr`` of an Adam configuration (a warning)         is a learning rate for Adam
``damping`` negative or not finite                  damping must be a finite number
``damping`` an unknown name                         unknown damping
``damping`` of another type                         damping must be a name, a number
a rule that returns a negative or infinite lambda   the damping rule returned
a rule with constants out of range                  needs
``curvature`` unknown                               curvature must be one of
``preconditioner`` unknown                          preconditioner must be
``cg_max_iter`` not a positive integer              cg_max_iter must be a positive
``cg_tol`` outside [0, 1)                           cg_tol must be a number in
``width`` not a positive integer                    width must be a positive integer
``hvp`` unknown                                     hvp must be one of
``scaling`` unknown                                 scaling must be
``scaling`` with another preconditioner             scaling='jacobian' needs the rows
``scaling`` of a loss whose rows cannot be read     scaling='jacobian' needs a loss
``correction`` not a bool                           correction must be True or False
``maximize`` not a bool                             maximize must be True or False
another optimizer's option in a group               RegNewton has no
an option other than ``lr`` in a group              cannot differ between parameter groups
no parameters                                       empty parameter list
one tensor instead of a list                        should be an iterable
a parameter that is no tensor                       can only optimize Tensors
a parameter that was computed                       can't optimize a non-leaf Tensor
a parameter in two groups                           some parameters appear in more than
a parameter given twice                             a parameter is given twice
two parameters in the same memory                   share their memory
an expanded parameter                               an expanded tensor
complex, integer or sparse parameters               real dense floating-point
half-precision parameters                           has too few digits
several dtypes                                      must share one dtype
several devices                                     must share one device
parameters on the meta device                       on the meta device
parameters of a lazy module                         has no shape yet
parameters without entries                          have no entries
parameters made in inference mode                   made under torch.inference_mode()
parameters of FSDP or tensor parallelism            does not work with FSDP
parameters that are all frozen                      no parameter requires a gradient
no closure, as from DeepSpeed                       step() needs a closure
a GradScaler                                        a GradScaler scales
a closure that cannot be called                     needs a callable closure
a closure without a loss                            neither called loss.backward()
``torch.autograd.backward(loss)``                   write loss.backward() instead
``loss.backward(inputs=...)``                       is not supported
a loss that is no scalar                            must be a scalar
a complex loss                                      the loss is complex
a loss without a graph                              without a graph
a loss that is not finite                           the loss is
a gradient that is not finite                       the gradient is not finite
a loss of other parameters                          does not depend on any parameter
a sparse gradient                                   a gradient is sparse
``step`` in inference mode                          leave it
an iterator that ends within a step                 take the batch from the loader
another batch at each call (a warning)              evaluated again at the same
parameters changed by the closure                   changes the parameters in place
Gauss-Newton of a loss that is not a sum            curvature='gauss_newton' needs
operations without a second derivative              second derivative
hooks on parameters (a warning)                     also acts on every product
==================================================  ===================================
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import SupportsFloat, SupportsIndex

import torch
from torch import Tensor

from ..damping.rules import DampingRule, RetryingRule
from ..preconditioners.base import Preconditioner, StatefulPreconditioner
from ..step import Arm

CURVATURES = ("auto", "hessian", "gauss_newton")
SCALINGS = ("auto", "jacobian", None)
HVPS = ("auto", "exact", "finite_difference")


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
    hvp: str = "auto"
    correction: bool = True
    maximize: bool = False

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
        if self.hvp not in HVPS:
            names = ", ".join(repr(name) for name in HVPS)
            raise ValueError(f"hvp must be one of {names}, not {self.hvp!r}")
        for name in ("correction", "maximize"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, not {getattr(self, name)!r}")
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
        number = isinstance(tol, (int, float)) and not isinstance(tol, bool)
        if tol is not None and not (number and 0 <= tol < 1):
            raise ValueError(f"cg_tol must be a number in [0, 1) or None, not {tol!r}")

    @cached_property
    def retrying(self) -> RetryingRule | None:
        """The damping rule, where it puts steps to a ratio test."""
        return self.damping if isinstance(self.damping, RetryingRule) else None

    @cached_property
    def stateful(self) -> StatefulPreconditioner | None:
        """The preconditioner, where it remembers something from step to step."""
        known = self.preconditioner
        return known if isinstance(known, StatefulPreconditioner) else None

    @cached_property
    def arms(self) -> frozenset[Arm]:
        """The arms that a step may choose among, where the loss allows them.

        With a fixed damping it is the exact Hessian and lambda I unless the user says otherwise:
        that is the paper's method.
        """
        adaptive = self.retrying is not None
        exact, scaled = [True, False], [True, False]
        if self.curvature != "auto" or not adaptive:
            exact = [self.curvature != "gauss_newton"]
        if self.scaling != "auto" or not adaptive or self.preconditioner != "auto":
            scaled = [self.scaling == "jacobian"]
        return frozenset(arm for arm in Arm if arm.exact in exact and arm.scaled in scaled)


def check_lr(lr: float | Tensor) -> None:
    """Raise unless `lr` is one finite number that is not negative.

    Raises:
        TypeError: it is no number.
        ValueError: it is negative, not finite, or a tensor of several.
    """
    if isinstance(lr, Tensor):
        if lr.numel() != 1 or lr.is_complex():
            raise ValueError("Tensor lr must be 1-element and real")
    elif not isinstance(lr, float) and (  # a protocol takes long to ask, and steps ask it
        isinstance(lr, (bool, str)) or not isinstance(lr, (SupportsFloat, SupportsIndex))
    ):
        raise TypeError(f"lr must be a number or a tensor of one element, not {lr!r}")
    if not (float(lr) >= 0 and math.isfinite(float(lr))):
        raise ValueError(f"lr must be finite and >= 0, not {float(lr)}")


def warn_of_foreign_lr(lr: float | Tensor) -> None:
    """Warn of a learning rate that looks like one of Adam's."""
    if 0 < float(lr) < 1.001e-3:  # also in single precision
        warnings.warn(
            f"lr={float(lr):g} is a learning rate for Adam; RegNewton's lr is the length of the "
            "step in units of Newton's own, and a step will be that much too short: leave it at "
            "1.0 (or use a scheduler, if it is a warm-up that you want)",
            stacklevel=3,
        )


FOREIGN = {
    "alpha", "amsgrad", "betas", "capturable", "centered", "dampening", "differentiable", "eps",
    "foreach", "fused",
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
        TypeError: a parameter is not real, dense and of single or double precision, or is a
            part of one that is divided among processes.
        ValueError: there are several dtypes or several devices, parameters that are given
            twice, share memory or have none yet, or no entries at all.
    """
    for param in params:
        _check_param(param)
    for what, kinds in (
        ("dtype", {param.dtype for param in params}),
        ("device", {param.device for param in params}),
    ):
        if len(kinds) > 1:
            names = ", ".join(sorted(str(kind) for kind in kinds))
            raise ValueError(
                f"all parameters must share one {what}, because one linear system couples "
                f"them, but there are {names}: move the model as a whole, by model.to(...)"
            )
    if params and all(param.device.type == "meta" for param in params):
        raise ValueError(
            "the parameters are on the meta device and have no values: materialise the model "
            "(model.to_empty(device=...), then initialise it) before making the optimizer"
        )
    if len({id(param) for param in params}) < len(params):
        raise ValueError(
            "a parameter is given twice, which would make the linear system singular: pass "
            "model.parameters(), which holds shared ones once, or dict.fromkeys(params)"
        )
    starts = [param.data_ptr() for param in params if param.numel() > 0]
    if len(set(starts)) < len(starts):
        raise ValueError(
            "two parameters share their memory: make them one and the same nn.Parameter "
            "(a.weight = b.weight), so that the optimizer knows"
        )
    if params and all(param.numel() == 0 for param in params):
        raise ValueError("the parameters have no entries: there is nothing to train")


@lru_cache
def _names(kind: type) -> frozenset[str]:
    """Of a class and those that it is made of."""
    return frozenset(base.__name__ for base in kind.__mro__)


def _check_param(param: Tensor) -> None:
    kinds = _names(type(param))
    if kinds & {"DTensor", "FlatParameter"}:
        raise TypeError(
            "RegNewton does not work with FSDP or tensor parallelism, which hold a part of each "
            "parameter per rank: use DistributedDataParallel (Lightning: strategy='ddp')"
        )
    if kinds & {"UninitializedParameter"}:
        raise ValueError(
            "a parameter of a lazy module has no shape yet: run the model once on a batch "
            "before making the optimizer"
        )
    if not param.is_floating_point() or param.layout is not torch.strided:
        raise TypeError(
            f"RegNewton trains real dense floating-point parameters, not {param.dtype} "
            f"ones of layout {param.layout}: train the others with another optimizer"
        )
    if param.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"RegNewton solves a linear system in the parameters' dtype, for which {param.dtype} "
            "has too few digits: keep the parameters in float32 (model.float()) and use "
            "torch.autocast, in Lightning precision='bf16-mixed'"
        )
    if param.is_inference():
        raise ValueError(
            "a parameter was made under torch.inference_mode() and cannot be trained: make the "
            "model outside of it"
        )
    if any(step == 0 and n > 1 for step, n in zip(param.stride(), param.shape, strict=True)):
        raise ValueError(
            "a parameter is an expanded tensor, whose entries share memory: make it with "
            ".clone() after .expand()"
        )
