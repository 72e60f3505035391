"""Checks of the learning rate, of lambda, of parameter groups and of parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import SupportsFloat, SupportsIndex

import torch
from torch import Tensor

from ..warning import warn
from .options import Options


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


def check_rates(lr: float | Tensor, weight_decay: float) -> None:
    """Check both options that a group may have of its own: `check_lr`, `check_weight_decay`."""
    check_lr(lr)
    check_weight_decay(weight_decay)


def check_weight_decay(weight_decay: float) -> None:
    """Raise unless `weight_decay` is one finite number that is not negative.

    Raises:
        TypeError: it is no number.
        ValueError: it is negative or not finite.
    """
    if isinstance(weight_decay, (bool, str)) or not isinstance(weight_decay, (int, float)):
        raise TypeError(f"weight_decay must be a number, not {weight_decay!r}")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be finite and >= 0, not {weight_decay}")


FOREIGN_LR = 1.001e-3
"""Learning rates below are Adam's defaults and smaller ones, also where they were rounded to single
precision, and nobody's length of a Newton step."""

SHORT_LR = 0.3
"""Under an adaptive damping nothing is gained by steps that short: after n of them the quadratic
model still has (1 - lr)^n of its distance left, 3 % at 0.3 after ten steps where 1 has none.
Defaults of trainers (0.01), of SGD (0.1) and suggestions of learning-rate finders lie below."""


def warn_of_foreign_lr(lr: float | Tensor, adaptive: bool) -> None:
    """Warn of a learning rate that looks like another optimizer's.

    Args:
        lr: the learning rate of all groups that have none of their own.
        adaptive: whether the damping follows a ratio test. A fixed one leaves the length of
            the step to `lr`, which may then be short on purpose.
    """
    if 0 < float(lr) < (SHORT_LR if adaptive else FOREIGN_LR):
        warn(
            f"lr={float(lr):g} is a learning rate for another optimizer, such as Adam; "
            "RegNewton's lr is the length of the step in units of Newton's own, and a step will "
            "be that much too short: leave it at 1.0 (or use a scheduler, if it is a warm-up that "
            "you want)"
        )


FOREIGN = frozenset({
    "alpha", "amsgrad", "betas", "capturable", "centered", "dampening", "differentiable", "eps",
    "foreach", "fused",
    "momentum", "nesterov", "rho",
})  # fmt: skip
"""Options of other optimizers, which a group copied from one may still have."""


OWN = frozenset(Options.__dataclass_fields__)
"""Options that hold for all parameters together."""


def check_group(group: Mapping[str, object]) -> None:
    """Raise a ValueError where a parameter group has an option of its own that it cannot have."""
    if OWN.isdisjoint(group) and FOREIGN.isdisjoint(group):  # at every step, so quickly
        return
    foreign = sorted(FOREIGN & set(group))
    if foreign:
        raise ValueError(
            f"RegNewton has no {', '.join(foreign)}: leave it out of the parameter group"
        )
    own = sorted(OWN & set(group))
    if own:
        raise ValueError(
            f"{', '.join(own)} cannot differ between parameter groups, because one linear "
            "system couples all parameters: give it to RegNewton(...); lr and weight_decay may "
            "differ"
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


def checked_damping(damping: float, *, needed: bool = False) -> float:
    """The lambda that a rule has returned, as a float.

    Args:
        damping: what the rule returned.
        needed: whether the matrix may be singular without it, as K of Kronecker factors may.

    Raises:
        ValueError: it is negative or not finite, or is zero and needed.
    """
    damping = float(damping)
    if math.isfinite(damping) and (damping > 0 or (damping == 0 and not needed)):
        return damping
    raise ValueError(
        f"the damping rule returned {damping}: it must be finite and "
        + ("> 0 with curvature='kronecker'" if needed else ">= 0")
    )
