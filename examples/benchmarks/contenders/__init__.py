"""All contenders, by name."""

from __future__ import annotations

from . import (
    hessian_free,
    levenberg_marquardt,
    nncg,
    reg_newton,
    soap,
    torch_optim,
    torchmin_newton,
    torchzero_newton,
)
from .contender import Contender

CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for peer in (
        reg_newton,
        torch_optim,
        levenberg_marquardt,
        torchmin_newton,
        nncg,
        torchzero_newton,
        hessian_free,
        soap,
    )
    for contender in peer.CONTENDERS
}
