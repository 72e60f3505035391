"""Products by differences of gradients, and the kernels that make them unnecessary."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.helpers import assert_close, closure_of, mlp, newton, randn, same_bits
from torch_newton import NotTwiceDifferentiableError, RegNewton, Stop, hessian
from torch_newton.autodiff.finite_difference import finite_difference_hessian
from torch_newton.closure.evaluator import Evaluator
from torch_newton.linalg.flat import flatten

pytestmark = pytest.mark.usefixtures("float64")

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "shallow": lambda: mlp(2, 10, 1),
    "deep": lambda: mlp(2, 8, 8, 8, 1),
    "wide": lambda: mlp(2, 200, 1),
    "large weights": lambda: scaled(mlp(2, 10, 1), 5.0),
    "small weights": lambda: scaled(mlp(2, 10, 1), 1e-2),
}


def scaled(model: nn.Module, factor: float) -> nn.Module:
    with torch.no_grad():
        for param in model.parameters():
            param.mul_(factor)
    return model


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-7), (torch.float32, 5e-3)])
@pytest.mark.parametrize("name", NETWORKS)
def test_differences_agree_with_exact_products(name: str, dtype: torch.dtype, tol: float) -> None:
    model = NETWORKS[name]().to(dtype)
    params = list(model.parameters())
    x, y = randn(20, 2, seed=1).to(dtype), randn(20, 1, seed=2).to(dtype)
    loss = lambda: functional.mse_loss(model(x), y)  # noqa: E731
    trials = Evaluator(lambda: loss().backward(), params)
    approximate = finite_difference_hessian(trials.gradient_at, params)
    double = copy.deepcopy(model).double()
    exact = hessian(functional.mse_loss(double(x.double()), y.double()), list(double.parameters()))
    before = flatten(params).detach().clone()
    size = float(torch.linalg.matrix_norm(exact.dense(), 2))
    for seed in range(3):
        v = randn(len(before), seed=seed)
        found = (approximate @ v.to(dtype)).double()
        assert float((found - exact @ v).norm()) <= tol * size * float(v.norm())
    assert torch.equal(flatten(params), before)
    assert not (approximate @ torch.zeros_like(before)).any()


def test_differences_are_exact_on_a_quadratic() -> None:
    A = torch.diag(torch.tensor([1.0, 4.0, -2.0]))
    x = nn.Parameter(randn(3))
    trials = Evaluator(lambda: x @ A @ x / 2, [x])
    assert_close(finite_difference_hessian(trials.gradient_at, [x]).dense(), A, 1e-9)


def train(model: nn.Module, loss: Callable[[], Tensor], steps: int, **options: Any) -> RegNewton:
    optimizer = RegNewton(model.parameters(), **options)
    for _ in range(steps):
        optimizer.step(closure_of(optimizer, loss))
    return optimizer


@pytest.mark.parametrize("preconditioner", ["auto", None])
def test_a_step_by_differences_is_the_exact_one(preconditioner: str | None) -> None:
    x, y = randn(20, 2, seed=1), randn(20, 1, seed=2)
    ends = []
    for hvp in ("exact", "finite_difference"):
        model = mlp(2, 8, 1)
        optimizer = train(
            model,
            lambda m=model: functional.mse_loss(m(x), y),
            1,
            hvp=hvp,
            damping=1.0,
            preconditioner=preconditioner,
        )
        ends.append(flatten(model.parameters()).detach())
    assert_close(ends[1], ends[0], 1e-6)
    step = optimizer.last_step
    assert step is not None
    assert step.closure_calls == 3 + 2 * step.products


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grad * (1 - y * y)


class Once(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = OnceDifferentiable.apply(x)
        return result


def test_a_graph_that_ends_falls_back_with_one_warning_and_stays() -> None:
    model = nn.Sequential(nn.Linear(2, 6), Once(), nn.Linear(6, 1))
    x, y = randn(20, 2, seed=1), randn(20, 1, seed=2)
    loss = lambda: functional.mse_loss(model(x), y)  # noqa: E731
    optimizer = RegNewton(model.parameters(), curvature="hessian")
    first = loss().item()
    with pytest.warns(UserWarning, match="finite differences of gradients"):
        optimizer.step(closure_of(optimizer, loss))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(10):
            optimizer.step(closure_of(optimizer, loss))
        resumed = RegNewton(model.parameters(), curvature="hessian")
        resumed.load_state_dict(optimizer.state_dict())
        resumed.step(closure_of(resumed, loss))
    assert loss().item() < 0.5 * first


def test_exact_products_that_were_asked_for_are_not_replaced() -> None:
    model = nn.Sequential(nn.Linear(2, 6), Once(), nn.Linear(6, 1))
    x = randn(20, 2, seed=1)
    before = flatten(model.parameters()).detach().clone()
    optimizer = RegNewton(model.parameters(), curvature="hessian", hvp="exact")
    with pytest.raises(NotTwiceDifferentiableError, match="differentiable once only"):
        optimizer.step(closure_of(optimizer, lambda: model(x).square().mean()))
    assert same_bits(flatten(model.parameters()), before)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_model_trains(backend: str) -> None:
    pytest.importorskip("torch._dynamo")
    if backend == "inductor" and not _has_compiler():
        pytest.skip("no C++ compiler")
    model = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1))
    x, y = randn(16, 2, seed=1), randn(16, 1, seed=2)
    once = copy.deepcopy(model)
    once(x)
    compiled = torch.compile(model, backend=backend)
    optimizer = newton(model.parameters(), curvature="hessian")
    loss = lambda: functional.mse_loss(compiled(x), y)  # noqa: E731
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first = optimizer.step(closure_of(optimizer, loss)).item()
        assert_close(model[1].running_mean, once[1].running_mean)
        assert int(model[1].num_batches_tracked) == 1
        for _ in range(12):
            optimizer.step(closure_of(optimizer, loss))
    assert sum("finite differences" in str(w.message) for w in caught) == 1
    assert loss().grad_fn.next_functions[0][0].name() == "CompiledFunctionBackward"
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert functional.mse_loss(model(x), y).item() < first


def _has_compiler() -> bool:
    import shutil

    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


# Norms at zero.


def test_a_squared_norm_at_zero_is_stepped_from_all_the_same() -> None:
    weight, target = nn.Parameter(torch.zeros(3)), torch.tensor([1.0, 2.0, 3.0])
    optimizer = newton([weight], curvature="hessian")
    loss = lambda: (weight - target).square().sum() + weight.norm() ** 2  # noqa: E731
    with pytest.warns(UserWarning, match=r"x\.square\(\)\.sum\(\)"):
        optimizer.step(closure_of(optimizer, loss))
    assert optimizer.last_step.accepted
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(30):
            optimizer.step(closure_of(optimizer, loss))
    assert_close(weight, target / 2, 1e-6)


def test_the_exact_product_that_does_not_exist_is_reported() -> None:
    weight = nn.Parameter(torch.zeros(3))
    optimizer = newton([weight], hvp="exact")
    optimizer.step(lambda: weight.norm() ** 2 + weight.sum())
    assert optimizer.last_step.stop is Stop.NON_FINITE
    assert not weight.any()


# Kernels.


def attention(kind: str) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    torch.manual_seed(0)
    if kind == "function":
        layer = nn.Linear(4, 4)

        def run(x: Tensor) -> Tensor:
            q = layer(x)[:, None]
            return functional.scaled_dot_product_attention(q, q, q)

        return layer, run
    if kind == "multihead":
        mha = nn.MultiheadAttention(4, 2, batch_first=True)
        return mha, lambda x: mha(x, x, x, need_weights=False)[0]
    block = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
    return block, block


@pytest.mark.parametrize("kind", ["function", "multihead", "transformer"])
def test_attention_works_out_of_the_box(kind: str) -> None:
    model, run = attention(kind)
    x, y = randn(3, 6, 4, seed=1), randn(3, 6, 4, seed=2)
    loss = lambda: functional.mse_loss(run(x).reshape(y.shape), y)  # noqa: E731
    with warnings.catch_warnings(), sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
        warnings.simplefilter("error")
        optimizer = RegNewton(model.parameters(), curvature="hessian")
        losses = [optimizer.step(closure_of(optimizer, loss)).item() for _ in range(4)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_networks_work(kind: Any) -> None:
    torch.manual_seed(0)
    model = kind(2, 4, batch_first=True)
    x, y = randn(3, 5, 2, seed=1), randn(3, 5, 4, seed=2)
    optimizer = RegNewton(model.parameters(), curvature="hessian")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = [
            optimizer.step(
                closure_of(optimizer, lambda: functional.mse_loss(model(x)[0], y))
            ).item()
            for _ in range(3)
        ]
    assert losses[-1] < losses[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_networks_work_where_cudnn_would_run_them(kind: Any) -> None:
    torch.manual_seed(0)
    model = kind(2, 4, batch_first=True).cuda()
    x, y = randn(3, 5, 2, seed=1).cuda(), randn(3, 5, 4, seed=2).cuda()
    optimizer = RegNewton(model.parameters(), curvature="hessian")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = [
            optimizer.step(
                closure_of(optimizer, lambda: functional.mse_loss(model(x)[0], y))
            ).item()
            for _ in range(3)
        ]
    assert losses[-1] < losses[0]
