"""Small problems made from modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import randn
from tests.trust.architectures.case import Criterion, Problem


def trained(module: nn.Module) -> list[Tensor]:
    return [p for p in module.parameters() if p.requires_grad]


def mean_square(target: Tensor) -> Criterion:
    return lambda z: F.mse_loss(z, target)


def cross_entropy(labels: Tensor) -> Criterion:
    return lambda z: F.cross_entropy(z, labels)


def fit(
    module: nn.Module,
    *inputs: Any,
    criterion: Criterion | None = None,
    loss: Criterion | None = None,
    apply: Callable[..., Tensor] | None = None,
) -> Problem:
    """The outputs of a module fitted to random targets, in the mean square unless said otherwise.

    Args:
        module: what is trained.
        inputs: of the module.
        criterion: the loss as a function of the outputs, of which Gauss-Newton is checked.
        loss: the loss as the closure spells it, where it is spelled otherwise or where
            Gauss-Newton is not to be checked.
        apply: from module and inputs to outputs, where that is not just a call.
    """
    call = apply or (lambda net, *given: net(*given))
    sample = call(module, *inputs)  # which also gives lazy layers their shape
    target = randn(*sample.shape, seed=3).to(sample.dtype)
    if criterion is None and loss is None:
        criterion = mean_square(target)
    spelled = loss or criterion
    assert spelled is not None
    return Problem(
        trained(module),
        lambda: spelled(call(module, *inputs)),
        module,
        None if criterion is None else lambda: call(module, *inputs),
        criterion,
    )


def free(params: list[Tensor], loss: Callable[[], Tensor]) -> Problem:
    """A loss of bare tensors."""
    return Problem([p.requires_grad_() for p in params], loss)


def stack(*layers: nn.Module, shape: tuple[int, ...] = (10, 3), out: int = 1) -> Problem:
    """Layers on random inputs, with a linear layer behind them."""
    return fit(nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(out)), randn(*shape, seed=2))


def between(layer: nn.Module, inputs: int = 4, features: int | None = None) -> Problem:
    """A layer between two linear ones, on 10 samples of 3 numbers."""
    return stack(nn.Linear(3, inputs), layer, nn.Linear(features or inputs, 3), nn.Tanh())


class Lambda(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)
