"""A wrong second derivative is found out, and ordinary networks are not suspected."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from torch_newton import hessian
from torch_newton.autodiff import verification
from torch_newton.autodiff.verification import Verdict, asymmetry, verify
from torch_newton.closure.evaluator import Evaluator
from torch_newton.linalg.operators import LinearOperator, from_dense

FEATURES = 16


def mlp(activation: Callable[[], nn.Module], *extra: Callable[[], nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    for fan_in in (FEATURES, 20):
        layers += [nn.Linear(fan_in, 20), activation(), *(make() for make in extra)]
    return nn.Sequential(*layers, nn.Linear(20, 1))


def conv(
    activation: Callable[[], nn.Module], pool: Callable[[int], nn.Module], normed: bool
) -> nn.Module:
    normalisation = [nn.BatchNorm2d(6)] if normed else []
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 6, 3, padding=1), *normalisation, activation(),
        pool(2), nn.Conv2d(6, 4, 2), activation(), nn.Flatten(), nn.Linear(4, 1),
    )  # fmt: skip


class Sequences(nn.Module):
    """A network that sees the features as a sequence of four."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.last = layer, nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x.view(len(x), 4, -1))
        return self.last((found[0] if isinstance(found, tuple) else found)[:, -1])


ACTIVATIONS = (
    "ReLU", "LeakyReLU", "ELU", "GELU", "SiLU", "Tanh", "Sigmoid", "Softplus", "Hardtanh",
    "Hardswish", "ReLU6", "PReLU", "CELU", "SELU", "Mish", "Softsign",
)  # fmt: skip
ORDINARY: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda name=name: mlp(getattr(nn, name)) for name in ACTIVATIONS},  # type: ignore[misc]
    "deep": lambda: nn.Sequential(
        *(nn.Sequential(nn.Linear(16, 16), nn.ReLU()) for _ in range(8)), nn.Linear(16, 1)
    ),
    "relu, dropout": lambda: mlp(nn.ReLU, lambda: nn.Dropout(0.3)),
    "gelu, dropout": lambda: mlp(nn.GELU, lambda: nn.Dropout(0.3)),
    "relu, batch norm": lambda: mlp(nn.ReLU, lambda: nn.BatchNorm1d(20)),
    "tanh, batch norm": lambda: mlp(nn.Tanh, lambda: nn.BatchNorm1d(20)),
    "gelu, layer norm": lambda: mlp(nn.GELU, lambda: nn.LayerNorm(20)),
    "relu, group norm": lambda: mlp(nn.ReLU, lambda: nn.GroupNorm(4, 20)),
    **{
        f"conv, {activation.__name__}, {pool.__name__}, {normed}": (
            lambda a=activation, p=pool, n=normed: conv(a, p, n)  # type: ignore[misc]
        )
        for activation, pool, normed in itertools.product(
            (nn.ReLU, nn.GELU), (nn.MaxPool2d, nn.AvgPool2d), (False, True)
        )
    },
    "attention": lambda: Sequences(
        nn.TransformerEncoderLayer(4, 2, 16, activation="gelu", batch_first=True), 4
    ),
    "rnn": lambda: Sequences(nn.RNN(4, 6, batch_first=True), 6),
    "lstm": lambda: Sequences(nn.LSTM(4, 6, batch_first=True), 6),
    "gru": lambda: Sequences(nn.GRU(4, 6, batch_first=True), 6),
}
DTYPES = [torch.float32, torch.float64]


def evaluated(
    make: Callable[[], nn.Module], dtype: torch.dtype, samples: int, autocast: bool = False
) -> tuple[LinearOperator, Evaluator]:
    """The Hessian of a regression loss, and the evaluator of its gradients."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().to(dtype)
        x = torch.randn(samples, FEATURES).to(dtype)
        y = torch.sin(3 * x[:, :1])

        def closure() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                return functional.mse_loss(model(x).to(dtype), y)

        evaluator = Evaluator(closure, list(model.parameters()))
        loss: Any = None

        def keep(found: Tensor) -> None:
            nonlocal loss
            loss = found

        captured = evaluator.capture_first(keep)
        evaluator.note_random_state()
        return hessian(captured.loss if loss is None else loss, evaluator.params), evaluator


def verdict(make: Callable[[], nn.Module], dtype: torch.dtype, samples: int = 64) -> Verdict:
    H, evaluator = evaluated(make, dtype, samples)
    return verify(H, evaluator.gradient_at, evaluator.params)


def test_there_are_enough_ordinary_networks() -> None:
    assert len(ORDINARY) >= 30


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("samples", [64, 1000])
@pytest.mark.parametrize("name", ORDINARY)
def test_no_ordinary_network_is_suspected(name: str, samples: int, dtype: torch.dtype) -> None:
    H, evaluator = evaluated(ORDINARY[name], dtype, samples)
    assert verify(H, evaluator.gradient_at, evaluator.params) is Verdict.SOUND
    assert asymmetry(H).explained


@pytest.mark.parametrize("name", ["ReLU", "GELU", "relu, batch norm", "deep"])
def test_low_precision_is_not_taken_for_an_error(name: str) -> None:
    H, evaluator = evaluated(ORDINARY[name], torch.float32, 64, autocast=True)
    assert verify(H, evaluator.gradient_at, evaluator.params) is Verdict.SOUND
    assert asymmetry(H).explained


class WrongTwice(torch.autograd.Function):
    """tanh, whose backward pass hides from autograd that it depends on x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * (1 - ctx.saved_tensors[0].detach().tanh() ** 2)


class Wrong(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = WrongTwice.apply(x)
        return found


class Reversed(torch.autograd.Function):
    """The identity, with a gradient of the opposite sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g


class Reversal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = Reversed.apply(x)
        return found


class Counted(nn.Module):
    """An embedding whose gradient is divided by how often each row occurs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 3, scale_grad_by_freq=True)
        self.last = nn.Linear(3 * FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        index = (2 * x.abs()).long().clamp(max=5)
        found: Tensor = self.last(self.table(index).flatten(1).tanh())
        return found


def normed(activation: Callable[[], nn.Module], dim: int | None) -> nn.Module:
    weight_norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(
        weight_norm(nn.Linear(FEATURES, 20), dim=dim),  # type: ignore[arg-type]
        activation(),
        nn.Linear(20, 1),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(lambda: mlp(Wrong), Verdict.WRONG, id="symmetric and wrong"),
        pytest.param(lambda: normed(nn.Tanh, 0), Verdict.WRONG, id="weight norm"),
        pytest.param(lambda: normed(nn.Tanh, 1), Verdict.WRONG, id="weight norm of columns"),
        pytest.param(lambda: normed(nn.ReLU, 0), Verdict.WRONG, id="weight norm and kinks"),
        pytest.param(lambda: normed(nn.Tanh, None), Verdict.SOUND, id="weight norm of all"),
        pytest.param(lambda: mlp(nn.Tanh, Reversal), Verdict.SOUND, id="reversed on purpose"),
        pytest.param(Counted, Verdict.NO_POTENTIAL, id="scale_grad_by_freq"),
    ],
)
def test_verdicts(make: Callable[[], nn.Module], expected: Verdict, dtype: torch.dtype) -> None:
    assert verdict(make, dtype) is expected


def test_what_is_not_finite_is_left_to_others() -> None:
    H = from_dense(torch.full((3, 3), torch.nan, dtype=torch.float64))
    param = torch.zeros(3, dtype=torch.float64)
    assert verify(H, lambda d: d, [param]) is Verdict.SOUND


def test_asymmetry_has_the_size_of_the_antisymmetric_part() -> None:
    """Over matrices, its mean square is ||H - H^T||_F^2."""
    ratios = []
    for seed in range(200):
        matrix = torch.randn(60, 60, generator=torch.Generator().manual_seed(seed)).double()
        found = asymmetry(from_dense(matrix))
        assert not found.explained
        ratios.append(found.size / float((matrix - matrix.T).norm()))
    assert 0.8 < (sum(r * r for r in ratios) / len(ratios)) ** 0.5 < 1.2


def test_the_generators_of_training_are_not_touched() -> None:
    before = torch.get_rng_state()
    verification.asymmetry(from_dense(torch.eye(3)))
    assert torch.equal(before, torch.get_rng_state())
