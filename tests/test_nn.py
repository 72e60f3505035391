from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from tests.helpers import Shallow, assert_close, closure_of, generator, randn
from torch_newton import RegNewton, Stop, tangent_kernel, width
from torch_newton.nn import Antisymmetric, ScaledOutput, ShallowNetwork

pytestmark = pytest.mark.usefixtures("float64")


def test_shallow_network_is_the_formula() -> None:
    net = ShallowNetwork(3, 50, beta=0.7, activation=torch.erf, generator=generator(1))
    x = randn(4, 3)
    total = torch.zeros(4)
    for c, w, eta in zip(net.output.weight[0], net.hidden.weight, net.hidden.bias, strict=True):
        total = total + c * torch.erf(x @ w + eta)
    assert_close(net(x)[:, 0], 50**-0.7 * total, 1e-13)


def test_it_is_the_reference_network_of_the_theory() -> None:
    x, y = torch.linspace(0, 1, 8), randn(8)
    reference = Shallow.draw(20, x, y, beta=0.52, seed=0)
    net = ShallowNetwork(1, 20, beta=0.52)
    with torch.no_grad():
        net.output.weight[0] = reference.c
        net.hidden.weight[:, 0] = reference.w
        net.hidden.bias.copy_(reference.eta)
    assert_close(net(x[:, None])[:, 0], reference.outputs(), 1e-14)


def test_initialisation_has_the_distributions_it_says() -> None:
    net = ShallowNetwork(2, 50_000, generator=generator(2))
    for normal in (net.hidden.weight.detach(), net.hidden.bias.detach()):
        assert abs(float(normal.mean())) < 0.02
        assert float(normal.square().mean()) == pytest.approx(1.0, abs=0.02)
        assert float(normal.pow(4).mean()) == pytest.approx(3.0, abs=0.15)
    c = net.output.weight.detach()
    assert float(c.abs().max()) <= 1
    assert float(c.square().mean()) == pytest.approx(1 / 3, abs=0.01)
    assert float(c.pow(4).mean()) == pytest.approx(1 / 5, abs=0.01)


def test_it_is_an_ordinary_module() -> None:
    net = ShallowNetwork(2, 16, generator=generator(3))
    x = randn(5, 7, 2)
    assert net(x).shape == (5, 7, 1)
    assert sum(p.numel() for p in net.parameters()) == 16 * 4
    assert width(list(net.parameters())) == 16
    other = copy.deepcopy(net)
    other.reset_parameters(generator(4))
    assert not torch.equal(other(x), net(x))
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))
    again = ShallowNetwork(2, 16, generator=generator(3))
    assert torch.equal(again(x), net(x))
    assert net.float()(x.float()).dtype is torch.float32
    assert "beta=0.52" in repr(net)


def test_antisymmetric_start_is_zero_with_the_kernel_of_one_half() -> None:
    x = randn(6, 2)
    net = ShallowNetwork(2, 40, beta=0.6, antisymmetric=True, generator=generator(5))
    assert_close(net(x), torch.zeros(6, 1), 1e-15)
    half = ShallowNetwork(2, 20, beta=0.6, generator=generator(5))
    ours = tangent_kernel(net(x), list(net.parameters())).dense()
    halves = [p.detach().clone() for p in (net.hidden.weight, net.hidden.bias)]
    with torch.no_grad():
        half.hidden.weight.copy_(halves[0][:20])
        half.hidden.bias.copy_(halves[1][:20])
        half.output.weight.copy_(net.output.weight[:, :20])
    theirs = tangent_kernel(half(x), list(half.parameters())).dense()
    assert_close(ours, 2 * (20 / 40) ** (2 * 0.6) * theirs, 1e-12)


def test_antisymmetric_wrapper_is_zero_with_the_same_kernel_and_trains_both_copies() -> None:
    x, y = randn(6, 2), randn(6, 1, seed=1)
    module = nn.Sequential(nn.Linear(2, 12), nn.GELU(), nn.Linear(12, 1))
    model = Antisymmetric(module)
    assert torch.equal(model(x), torch.zeros(6, 1))
    ours = tangent_kernel(model(x), list(model.parameters())).dense()
    theirs = tangent_kernel(module(x), list(module.parameters())).dense()
    assert_close(ours, theirs, 1e-12)
    optimizer = RegNewton(model.parameters())
    for _ in range(20):
        optimizer.step(closure_of(optimizer, lambda: nn.functional.mse_loss(model(x), y)))
    assert optimizer.last_step.loss_after < 1e-6
    assert not torch.equal(model.positive[0].weight, model.negative[0].weight)


def test_scaled_output_scales_the_kernel_by_its_square() -> None:
    x = randn(4, 2)
    module = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1))
    model = ScaledOutput(module, 3.0)
    assert_close(model(x), 3 * module(x), 1e-15)
    ours = tangent_kernel(model(x), list(model.parameters())).dense()
    assert_close(ours, 9 * tangent_kernel(module(x), list(module.parameters())).dense(), 1e-12)
    assert "scale=3.0" in repr(model)


def test_newton_in_the_definite_regime_needs_no_more_than_the_defaults() -> None:
    x = torch.linspace(0, 1, 16)[:, None]
    y = 2 * x
    net = ShallowNetwork(1, 512, generator=generator(7))
    optimizer = RegNewton(net.parameters(), damping="width")
    for _ in range(3):
        optimizer.step(closure_of(optimizer, lambda: (net(x) - y).square().sum() / (2 * len(x))))
    assert optimizer.last_step.stop is Stop.CONVERGED
    assert optimizer.last_step.width == 512


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ShallowNetwork(0, 5), "at least one"),
        (lambda: ShallowNetwork(1, 0), "at least one"),
        (lambda: ShallowNetwork(1, 5, beta=1.0), "beta"),
        (lambda: ShallowNetwork(1, 5, beta=0.3), "beta"),
        (lambda: ShallowNetwork(1, 5, antisymmetric=True), "even"),
        (lambda: ScaledOutput(nn.Identity(), 0.0), "scale"),
        (lambda: ScaledOutput(nn.Identity(), math.inf), "scale"),
    ],
)
def test_bad_networks_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
