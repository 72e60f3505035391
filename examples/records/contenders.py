"""Who trains: a table from a name to a function of the network that takes a step.

A contender gets the parameters and the seconds that the run has, and returns what is called once a
step with the closure. A new one is one function and one line of the table.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from torch_newton import RegNewton

Closure = Callable[[], Tensor]
Take = Callable[[Closure], Tensor]
"""One step; it returns the loss before it."""


def reg_newton(params: list[Tensor], seconds: float) -> Take:
    """The defaults."""
    return RegNewton(params).step


def lbfgs(params: list[Tensor], seconds: float) -> Take:
    """PyTorch's L-BFGS, strong Wolfe, history 100, without early end; a step is 20 iterations."""
    return torch.optim.LBFGS(
        params,
        max_iter=20,
        history_size=100,
        line_search_fn="strong_wolfe",
        tolerance_grad=0.0,
        tolerance_change=0.0,
    ).step


def adam_lbfgs(params: list[Tensor], seconds: float) -> Take:
    """Adam at 1e-3 for a quarter of the time, then L-BFGS.

    The share is that of the iterations of Rathore et al. 2024, 11,000 of 41,000.
    """
    adam, then = torch.optim.Adam(params, lr=1e-3), lbfgs(params, seconds)
    begin = time.perf_counter()
    share = 11 / 41

    def step(closure: Closure) -> Tensor:
        if time.perf_counter() - begin < share * seconds:
            return adam.step(closure)
        return then(closure)

    return step


def soap(params: list[Tensor], seconds: float) -> Take:
    """SOAP as Wang et al. 2025 (arXiv 2502.00604) set it for physics-informed networks.

    Rate 1e-3 after a linear warm-up of 2,000 steps, times 0.9 every 2,000 thereafter; betas 0.99,
    bases renewed every second step; no weight decay.
    """
    from pytorch_optimizer import SOAP

    optimizer = SOAP(
        params, lr=1e-3, betas=(0.99, 0.99), weight_decay=0.0, precondition_frequency=2
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: (k + 1) / 2000 if k < 2000 else 0.9 ** ((k - 2000) / 2000)
    )

    def step(closure: Closure) -> Tensor:
        loss = optimizer.step(closure)
        schedule.step()
        return loss

    return step


MOST = 20_000
"""Parameters up to which a matrix of P x P numbers is tried: 3.2 GB, and four of them at a time."""


def ssbroyden(params: list[Tensor], seconds: float) -> Take:
    """Self-scaled Broyden of Scimba (Urban, Stefanou and Pons 2025), which keeps a P x P matrix.

    Its own choices but for the tolerance of 1e-10 on the gradient, at which it would stand still.
    """
    from scimba_torch.optimizers.ssbroyden import SSBroyden

    if (size := sum(param.numel() for param in params)) > MOST:
        raise ValueError(f"P = {size:,}: no room for matrices of P x P numbers")
    return SSBroyden(params, method="ssbroyden", tolerance_grad=1e-300).step


CONTENDERS: dict[str, Callable[[list[Tensor], float], Take]] = {
    "RegNewton": reg_newton,
    "L-BFGS": lbfgs,
    "Adam + L-BFGS": adam_lbfgs,
    "SOAP": soap,
    "SSBroyden (Scimba)": ssbroyden,
}
